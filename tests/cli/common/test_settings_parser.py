"""Settings from the command line and from files, without training anything."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from ccpml.cli import main, train
from ccpml.cli.common.options import UsageError
from ccpml.cli.common.settings_parser import check_settings
from ccpml.runs.images import read_facts
from ccpml.runs.settings import Settings, setting_types
from tests.toy import toy_folder


def settings(*arguments: str) -> Settings:
    return train.parse(list(arguments)).settings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["cub"], {"data": "cub"}),
        (["--data", "cub"], {"data": "cub"}),
        (["--lr", "1e-3", "folder:photos"], {"lr": 1e-3, "data": "folder:photos"}),
        (["cub", "--lr=1e-3", "--max-steps", "5"], {"data": "cub", "lr": 1e-3, "max_steps": 5}),
        (["--max_steps=5", "--max-steps", "6"], {"max_steps": 6}),
        (["--fold", "1", "--channels=3"], {"fold": 1, "channels": 3}),
        (["--fold=auto", "--lr=null"], {"fold": "auto", "lr": None}),
        (["--loss", "triplet", "--margin", "0.3"], {"loss": "triplet", "loss_parameters": {"margin": 0.3}}),
        (["--loss", "triplet", "--margin=null"], {"loss": "triplet", "loss_parameters": {}}),
        (["--test-classes", "Korean/*,Greek/*"], {"test_classes": "Korean/*,Greek/*"}),
        (["--test-classes", "[a, b]"], {"test_classes": ["a", "b"]}),
        (["--skip-bad-images"], {"skip_bad_images": True}),
        (["--skip-bad-images", "cub"], {"skip_bad_images": True, "data": "cub"}),
        (["--skip-bad-images", "false", "cub"], {"skip_bad_images": False, "data": "cub"}),
        (["cub", "--skip_bad_images=true", "--lr", "1"], {"skip_bad_images": True, "data": "cub", "lr": 1.0}),
        (["--compile", "yes", "--score-last", "on", "--channels-last=no"], {"compile": True, "score_last": True}),
    ],
)
def test_spellings_of_options(arguments: list[str], expected: dict[str, object]) -> None:
    parsed = settings(*arguments)
    assert parsed == Settings(**expected)  # type: ignore[arg-type]


def test_options_of_the_projections() -> None:
    options = settings("--projections.strength=1e-3", "--projections.reset-proxy-state", "--patience=9")
    assert options.projections.strength == 1e-3
    assert options.projections.reset_proxy_state
    assert (options.projections.patience, options.patience) == (Settings().projections.patience, 9)


def test_flags_after_a_file_win_over_it(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    own = "loss: triplet\nmargin: 0.2\nlr: 1e-2\nskip_bad_images: yes\nlr_warmup: 0.0\n"  # the last was removed
    file.write_text(f"{own}projections:\n  strength: 0.5\n  space: lipschitz\n")
    parsed = settings("--seed=3", "--config", str(file), "--lr", "0.1", "--projections.strength=0.7")
    expected = {"loss": "triplet", "margin": 0.2, "lr": 0.1, "skip_bad_images": True, "seed": 3}
    changes = {**expected, "projections.strength": 0.7, "projections.space": "lipschitz"}
    assert parsed == Settings().changed(changes)
    assert settings("--lr", "0.1", "--config", str(file)).lr == 0.1, "in any order"
    other = tmp_path / "other.yaml"
    other.write_text("lr: 0.5\ndata: glyphs\nprojections: {strength: 0.1}\n")
    both = settings("--config", str(file), "groceries", "--projections.strength", "0.9", "--config", str(other))
    assert (both.lr, both.data, both.projections.strength) == (0.5, "groceries", 0.9), "the later file, and the flags"


def test_an_empty_file_changes_nothing_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.yaml").touch()
    assert settings("--config", str(tmp_path / "empty.yaml"), "--lr=1") == Settings(lr=1)
    assert f"note: --config {tmp_path}/empty.yaml: sets nothing" in capsys.readouterr().err


FLAGS = [
    *("--loss=triplet", "--margin", "0.3", "--projections.strength=1e-3", "--projections.rewind"),
    *("--test-classes", "group1*,group2*", "--fold=1", "--channels", "3", "--lr-schedule=plateau", "--epochs=3"),
]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--print_config", "--print-config"])
def test_printed_settings_are_all_settings_and_nothing_else_and_make_the_same_run(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"folder:{toy_folder(tmp_path / 'toy')}"
    text = printed(capsys, "train", data, *FLAGS, flag, "--run", "somewhere")
    values = yaml.safe_load(text)
    assert values.keys() == Settings().as_dict().keys() | {"margin"}
    assert [name for name, value in values.items() if value is None] == ["epochs"]
    assert (values["folds"], values["classes_per_batch"], values["max_steps"]) == (2, 2, 4)
    (tmp_path / "printed.yaml").write_text(text)
    taken = settings(data, *FLAGS)
    assert settings("--config", str(tmp_path / "printed.yaml")).flat() == taken.resolved(read_facts(taken)).flat()
    assert printed(capsys, "train", "--config", str(tmp_path / "printed.yaml"), "--print-config") == text


def test_settings_that_contradict_each_other_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "glyphs", "--loss", "triplet", "--alpha=2", "--print-config"]) == 2
    assert not capsys.readouterr().out


@pytest.mark.parametrize("verb", ["train", "tune", "benchmark"])
def test_data_that_may_be_forgotten_are_named(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    note = "note: no data given: glyphs are taken, which are built in"
    for data, notes in (([], [note]), (["glyphs"], [])):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([verb, *data, "--lr", "0.01", "--print-config"])
        out, error = capsys.readouterr()
        assert yaml.safe_load(out)["data"] == "glyphs"
        assert [line for line in error.splitlines() if "no data" in line] == notes


@pytest.mark.parametrize("verb", ["train", "tune", "benchmark"])
def test_help_lists_every_setting_in_sections(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    help_text = printed(capsys, verb, "--help")
    without = {"data", "method", "loss", "fold"} if verb == "benchmark" else {"data"}
    for name in setting_types().keys() - without:
        assert help_text.count(f"  --{name.replace('_', '-')} ") == 1
    places = [
        help_text.index(f"\n{title}:\n") for title in ("data", "method and loss", "network", "training", "machine")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "fast"], "lr: expected float or null, got 'fast'"),
        (["--lr="], "--lr: expected a value, got nothing"),
        (["--lr"], "--lr: expected a value, got none"),
        (["--max-steps", "1.5"], "max_steps: expected int or null, got '1.5'"),
        (["--channels", "2"], "channels: expected 1, 3 or auto, got '2'"),
        (["--pooling=median"], "pooling: expected avg, max or avg+max, got 'median'"),
        (["--skip-bad-images", "maybe"], "skip_bad_images: expected true or false, got 'maybe'"),
        (["--strength", "3"], "did you mean --projections.strength?"),
        (["glyphs", "--nonsense=3"], "unrecognized arguments: --nonsense=3; see ccpml train --help"),
        (["--proxy-per-class=3"], "did you mean --proxies-per-class?"),
        (["--batch-size=32"], "did you mean --classes-per-batch or --samples-per-class?"),
        (["--num_workers", "3"], "did you mean --workers?"),
        (["--dim", "64"], "did you mean --embedding-dim?"),
        (["--arch", "resnet50"], "did you mean --backbone?"),
        (["--lr-decay", "0.1"], "did you mean --lr-schedule?"),
        (["glyphs", "--optimizer=adam"], "unrecognized arguments: --optimizer=adam; see ccpml train --help"),
        (["glyphs", "--data", "folder:a"], "data given twice: glyphs and folder:a"),
        (["glyphs", "--lr=1", "cub"], "data given twice: glyphs and cub"),
        (["--skip-bad-images", "cub", "glyphs"], "data given twice: cub and glyphs"),
        (["glyphs", "lr=0.1"], "lr=0.1: expected data, got a setting; write --lr=0.1"),
        (["classes-per-batch=8", "glyphs"], "expected data, got a setting; write --classes-per-batch=8"),
        (["glyphs", "--embedding-dim=1000000000000000000"], "embedding_dim: expected at most 1000000000000, got"),
        (
            ["--loss", "triplet", "--alpha", "2"],
            "alpha: expected a parameter of triplet (margin), got one of multi_similarity",
        ),
        (["--run", ""], "--run: expected a value, got nothing"),
        (["--config", ""], "--config: expected a value, got nothing"),
        (["--config", "/no/such.yaml"], "--config /no/such.yaml: cannot be read"),
    ],
)
def test_usage_errors_name_the_option_and_the_value(arguments: Sequence[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        settings(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"projections: 3\n", "projections: expected a setting, got 3"),
        (b"lr: {a: 1}\n", "lr: expected float or null"),
        (b"lr: fast\n", "lr: expected float or null, got 'fast'"),
        (b"compile: 3\n", "compile: expected true or false, got 3"),
        (b"lr: -1\n", "lr: expected a finite number > 0, got -1.0"),
        (b"loss: nonsense\n", "nonsense"),
        (b"backbone: nonsense\n", "nonsense"),
        (b"seed: 1\nlr: 1\nseed: 2\n", "settings.yaml: not a YAML file: line 3: seed given twice"),
        (b"projections: {decay: 1, decay: 2}\n", "line 1: decay given twice"),
        (
            b"projections: &a {decay: [*a]}\n",
            "yaml: expected plain settings, got lists or mappings within each other",
        ),
        (b"a: &a {b: *a}\n", "yaml: expected plain settings, got lists or mappings within each other"),
        (b"run: [a]\n", "settings.yaml: run: expected str, got ['a']"),
        (b"[" * 5000, "settings.yaml: not a YAML file of settings: it is nested too deeply"),
        (b"- lr\n", "settings.yaml: expected settings by name"),
        (b"config: other.yaml\n", "settings.yaml: expected settings by name, and no other file"),
        (b"lr: [\n", "settings.yaml: not a YAML file"),
        (b"lr: \xff\n", "settings.yaml: not a YAML file: expected UTF-8 text, got byte 0xff"),
        (b"lr: \x00\n", "settings.yaml: not a YAML file: it holds characters that no text has"),
        (b"lr_warmup: 0.05\n", "lr_warmup: expected 0.0, as it is no longer a setting, got 0.05"),
        (b"seed: 017\n", "line 1: expected a decimal number, or text in quotes, got 017"),
        (b"seed: 1:30\n", "line 1: expected a decimal number, or text in quotes, got 1:30"),
        (b"seed: " + b"9" * 5000, "line 1: expected a decimal number of at most 100 digits, or text in quotes, got 99"),
        (b"lr: .nan\n", "lr: expected a finite number > 0, got nan"),
        (b"3: 4\n", "expected names of settings, got 3"),
        (b"null: 4\n", "expected names of settings, got None"),
        (b"warm_start: 3\n", "warm_start: not a setting; did you mean --projections.warm-start?"),
        (b"LR: 1\n", "LR: not a setting; did you mean --lr?"),
        (b"learning_rate: 1\n", "learning_rate: not a setting"),
        (b"projections:\n  strenght: 1\n", "did you mean --projections.strength?"),
    ],
)
def test_errors_in_a_file(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_bytes(content)
    with pytest.raises(UsageError) as error:
        settings("--config", str(tmp_path / "settings.yaml"))
    assert str(error.value).startswith(f"--config {tmp_path / 'settings.yaml'}: ")
    assert message in str(error.value)


def test_a_wrong_flag_after_a_file_does_not_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("lr: -1\n")
    with pytest.raises(UsageError) as error:
        settings("--config", str(tmp_path / "settings.yaml"), "--lr=-2")
    assert str(error.value).startswith("lr: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: folder:nowhere", "folder:nowhere: folder not found"),
        ("data: cub\ndata_root: nowhere", "--data-root: folder nowhere not found"),
        ("weights: none.pth", "weights: expected a file, imagenet or none, got 'none.pth'; file not found"),
        ("proxies_per_class: 99", "proxies_per_class: expected at most pool_size"),
    ],
)
def test_what_a_file_names_is_checked_and_the_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(content)
    parsed = train.parse(["--config", str(tmp_path / "a.yaml")])
    with pytest.raises(UsageError) as caught:
        check_settings(parsed.settings, parsed.files)
    assert str(caught.value).startswith(f"--config {tmp_path / 'a.yaml'}: {message}")
    with pytest.raises(UsageError) as caught:
        check_settings(parsed.settings, {})
    assert str(caught.value).startswith(message)


def test_data_that_have_moved_from_under_a_study_may_be_linked(tmp_path: Path) -> None:
    parsed = train.parse(["folder:nowhere"])
    for started in (False, True):
        if started:
            (tmp_path / "study.yaml").touch()
        with pytest.raises(UsageError) as caught:
            check_settings(parsed.settings, parsed.files, tmp_path / "study.yaml")
        way_out = f"; to go on with {tmp_path}, restore it, or make a link to it there if it has moved" * started
        assert str(caught.value) == f"folder:nowhere: folder not found{way_out}"
    with pytest.raises(UsageError) as caught:  # no link helps
        check_settings(train.parse(["cub"]).settings, {}, tmp_path / "study.yaml")
    assert str(caught.value) == "cub: folder not given; pass --data-root or set CCPML_DATA"
