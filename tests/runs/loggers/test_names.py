import pytest

from ccpml.cli import main
from ccpml.runs.loggers.names import LOGGERS, check_installed, logger_names
from ccpml.runs.settings import Settings
from ccpml.runs.values import differences, read_values


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("csv", ("csv",)),
        ("mlflow, tensorboard", ("mlflow", "tensorboard")),
        (["wandb", "csv"], ("wandb", "csv")),
        ("none", ()),
        (",".join(LOGGERS), tuple(LOGGERS)),
    ],
)
def test_names_as_text_or_list(value, names):
    assert logger_names(value) == names
    settings = Settings(logger=value)
    assert settings.loggers() == names
    again = Settings.from_dict(read_values(settings.as_dict()))
    assert again.loggers() == names


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("comet", "'comet'"),
        ("csv,csv", "csv twice"),
        ("csv,none", "'none'"),
        ("", "''"),
        ("csv,", "''"),
        ([], "nothing"),
        ([3], "'3'"),
    ],
)
def test_unknown_and_repeated_names(value, got):
    with pytest.raises(ValueError, match=rf"^logger: expected none, or one or more of .*, got {got}$"):
        Settings(logger=value)


def test_the_logger_is_no_other_run():
    assert differences(Settings(logger="csv").flat(), Settings(logger="none").flat()) == []


def test_a_missing_package_names_its_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("ccpml.extras.find_spec", lambda name: None)
    check_installed(["tensorboard", "csv"])
    assert main(["train", "groceries", "--logger", "csv,mlflow", "--run", str(tmp_path / "run")]) == 2
    message = "logger mlflow: needs mlflow, sqlalchemy, alembic, not installed; pip install mlflow sqlalchemy alembic"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
