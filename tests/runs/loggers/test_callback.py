import csv
import errno
import itertools
import json
import math
import shutil
import time
from importlib.util import find_spec

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ccpml.runs.directory import RunDirectory
from ccpml.runs.loggers import logger as loggers
from ccpml.runs.loggers.callback import read_places
from ccpml.runs.loggers.logger import LoggerError, _one_line
from ccpml.runs.train import resume, train
from tests.damage.states import bound_by_permissions
from tests.runs.stopping import StopAt
from tests.toy import quick_settings, toy_folder

STEPS = [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def settings(folder):
    return quick_settings(data=f"folder:{folder}", logger="tensorboard,csv")


class Memory(loggers.RunLogger):
    """A logger in memory that fails when told to."""

    kind = "mlflow"
    logged: list = []  # noqa: RUF012
    opened: list = []  # noqa: RUF012
    closed: list = []  # noqa: RUF012
    fails = frozenset()

    def _open(self, settings):
        if "open" in self.fails:
            raise getattr(self, "error", ConnectionError("no\nserver"))
        self.opened.append(dict(settings))
        self.place |= {"where": "", "id": "one"}
        return object()

    def _write(self, rows):
        if rows[-1][0] in self.fails:
            raise ConnectionError("server gone")
        self.logged.extend(rows)

    def _close(self, status):
        self.closed.append(status)


@pytest.fixture
def memory(monkeypatch):
    for name in ("logged", "opened", "closed"):
        monkeypatch.setattr(Memory, name, [])
    monkeypatch.setattr("ccpml.runs.loggers.callback.logger_class", lambda name: Memory)
    return Memory


def stopped(settings, path, step=5):
    with pytest.raises(RuntimeError, match="stopped by the test"):
        train(settings, path, progress=False, callbacks=[StopAt(step)])
    time.sleep(1 - time.time() % 1)  # names of event files have the second, then a number that sorts as a text


def scalars(path):
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def table(path):
    with (path / "csv" / "metrics.csv").open() as file:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_stopped_and_resumed_run_leaves_the_record_of_a_whole_one(settings, tmp_path):
    whole = train(settings, tmp_path / "whole", progress=False)
    stopped(settings, tmp_path / "cut")
    assert [row["step"] for row in table(tmp_path / "cut")] == [1, 2, 3, 4]  # what is not saved is not logged
    cut = resume(tmp_path / "cut", progress=False)
    assert table(cut.path) == table(whole.path)
    ours, theirs = scalars(cut.path), scalars(whole.path)
    assert ours.pop("seconds")
    assert theirs.pop("seconds")
    assert ours == theirs
    assert [step for step, _ in ours["step_loss"]] == STEPS
    rows, scores = whole.metrics(), whole.scores()
    for step, value in ours["map_at_r"]:
        assert value == pytest.approx(next(row["map_at_r"] for row in rows if row["step"] == step))
    for row in rows:  # the loss of an interval is the mean of its steps
        losses = [value for step, value in ours["step_loss"] if row["step"] - 2 < step <= row["step"]]
        assert math.fsum(losses) / 2 == pytest.approx(row["loss"], rel=1e-6)
    assert ours["test/map_at_r"] == [(6, pytest.approx(scores["test"]["map_at_r"]))]
    assert ours["best/step"] == [(6, scores["validation"]["step"])]
    assert not whole.loggers_file.exists()
    for kind in ("tensorboard", "csv"):
        logged = (whole.path / kind / "hparams.yaml").read_text()
        assert f"run: {whole.path}" in logged
        assert "projections.patience: 1" in logged


def test_no_logger(settings, tmp_path):
    run = train(settings.changed({"logger": "none"}), tmp_path / "run", progress=False)
    assert not {"tensorboard", "csv", "loggers.json"} & {file.name for file in run.path.iterdir()}


def test_a_run_from_before_is_resumed(settings, tmp_path):
    stopped(settings, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    state = torch.load(run.state_file, weights_only=True)
    for name in ("step_losses", "last_step"):
        assert state["callbacks"]["Recorder"].pop(name) is not None
    torch.save(state, run.state_file)
    lines = run.settings_file.read_text().splitlines(keepends=True)
    run.settings_file.write_text("".join(line for line in lines if not line.startswith("logger:")))
    resumed = scalars(resume(run.path, progress=False).path)
    assert [step for step, _ in resumed["step_loss"]] == [5, 6]
    assert [step for step, _ in resumed["map_at_r"]] == [2, 4, 6]


def test_each_value_is_logged_once(settings, tmp_path, memory):
    settings = settings.changed({"logger": "mlflow"})
    stopped(settings, tmp_path / "run")
    assert read_places(tmp_path / "run" / "loggers.json") == {"mlflow": {"where": "", "id": "one", "step": 4}}
    run = resume(tmp_path / "run", progress=False)
    assert [step for step, _ in memory.logged] == [*STEPS, 6]
    *_, (_, last), (_, scores) = memory.logged
    assert last["map_at_r"] == pytest.approx(run.metrics()[-1]["map_at_r"])
    assert scores["test/precision_at_1"] == run.scores()["test"]["precision_at_1"]
    assert memory.closed == ["failed", "success"]
    assert memory.opened[0]["run"] == str(run.path)
    assert memory.opened[0]["lr"] == 1e-3


def test_a_logger_that_fails_ends_alone_and_catches_up(settings, tmp_path, memory, monkeypatch, capsys):
    monkeypatch.setattr(memory, "fails", {4, 6})
    settings = settings.changed({"logger": "mlflow"})
    run = train(settings, tmp_path / "run", progress=False)
    assert run.finished
    gist = "its server cannot be reached: server gone"
    assert capsys.readouterr().err == f"note: logger mlflow: {gist}; training continues without it\n"
    assert [step for step, _ in memory.logged] == [1, 2]
    monkeypatch.setattr(memory, "fails", {})
    run.scores_file.unlink()
    resume(run.path, progress=False)
    assert [step for step, _ in memory.logged] == [*STEPS, 6]


def test_errors_of_the_system_are_put_into_words(settings, tmp_path, capsys):
    run = train(settings.changed({"logger": "tensorboard"}), tmp_path / "run", test=False, progress=False)
    file = run.path / "tensorboard" / "hparams.yaml"
    file.unlink()
    file.mkdir()
    resume(run.path, progress=False)
    assert f"logger tensorboard: {file}: Is a directory; training continues" in capsys.readouterr().err


def chained(error, *causes):
    for one, cause in itertools.pairwise((error, *causes)):
        one.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "gist"),
    [
        (
            chained(
                RuntimeError("API request to http://a failed " * 9), OSError("x"), ConnectionRefusedError(111, "No")
            ),
            "its server cannot be reached: No",
        ),
        (chained(RuntimeError("giving up"), TimeoutError()), "its server cannot be reached: TimeoutError"),
        (RuntimeError("Key 1.5 is\n invalid. Make another at https://b.c."), "Key 1.5 is invalid"),
        (RuntimeError("The key is invalid. Make another."), "The key is invalid"),
        (RuntimeError("word " * 99), f"{'word ' * 32}..."),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_of_a_logger_are_put_into_one_sentence(error, gist):
    assert _one_line(error) == gist


def test_event_files_that_cannot_be_written_are_named(settings, tmp_path, capfd):
    run = train(settings.changed({"logger": "tensorboard"}), tmp_path / "run", test=False, progress=False)
    shutil.rmtree(run.path / "tensorboard")
    (run.path / "tensorboard").mkdir(mode=0o555)
    denied = rf"cannot be opened \({run.path}/tensorboard/events\S+: Permission denied\); see to it, or change logger"
    with bound_by_permissions(), pytest.raises(LoggerError, match=denied):
        resume(run.path, progress=False)
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_of_the_system_that_names_no_file_names_the_folder(settings, tmp_path, memory, monkeypatch):
    monkeypatch.setattr(memory, "error", OSError(errno.ENOSPC, "No space left on device"), raising=False)
    monkeypatch.setattr(memory, "fails", {"open"})
    full = rf"cannot be opened \({tmp_path}/run/mlflow: No space left on device\)"
    with pytest.raises(LoggerError, match=full):
        train(settings.changed({"logger": "mlflow"}), tmp_path / "run", progress=False)


def test_a_logger_that_cannot_be_opened(settings, tmp_path, memory, monkeypatch, capsys):
    monkeypatch.setattr(memory, "fails", {"open"})
    settings = settings.changed({"logger": "mlflow"})
    message = (
        r"^logger mlflow: cannot be opened \(.*no server\); see to it, or change logger in .*experiment\.yaml, and"
    )
    with pytest.raises(LoggerError, match=message):
        train(settings, tmp_path / "run", progress=False)
    run = RunDirectory.open(tmp_path / "run")
    assert run.metrics() == []
    monkeypatch.setattr(memory, "fails", {})
    with pytest.raises(RuntimeError, match="stopped by the test"):
        resume(run.path, progress=False, callbacks=[StopAt(5)])
    monkeypatch.setattr(memory, "fails", {"open"})  # a run that has logged goes on
    assert resume(run.path, progress=False).finished
    assert (
        "note: logger mlflow: its server cannot be reached: no server; training continues without it"
        in capsys.readouterr().err
    )
    assert [step for step, _ in memory.logged] == [1, 2, 3, 4]


def test_further_callbacks_log_too(settings, tmp_path):
    settings = settings.changed({"logger": "tensorboard"})
    run = train(settings, tmp_path / "run", progress=False, callbacks=[LearningRateMonitor("epoch")], test=False)
    rates = [rows for name, rows in scalars(run.path).items() if name.startswith("lr-")]
    assert rates
    assert all(value == pytest.approx(1e-3) for rows in rates for _, value in rows)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1, "loggers": {"mlflow": 3}}', '{"version": 1}'])
def test_a_damaged_file_names_the_way_out(tmp_path, content):
    file = tmp_path / "loggers.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"loggers\.json: .*; remove it, and resuming the run logs it again"):
        read_places(file)


def test_wandb_and_mlflow_offline(settings, tmp_path, monkeypatch, capfd):
    if not all(map(find_spec, ("wandb", "mlflow"))):
        pytest.skip("wandb or mlflow is not installed")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    path = tmp_path / "a run"
    settings = settings.changed({"logger": "wandb,mlflow"})
    stopped(settings, path)
    before = json.loads((path / "loggers.json").read_text())["loggers"]
    run = resume(path, progress=False, callbacks=[StopAt(100)])
    after = read_places(run.loggers_file)
    for name in ("wandb", "mlflow"):
        assert after[name] == {**before[name], "step": 6}
    assert capfd.readouterr() == ("", "")

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path}/mlflow/mlflow.db")
    known = client.get_run(after["mlflow"]["id"])
    assert len(client.search_runs([known.info.experiment_id])) == 1
    assert (known.info.status, known.info.run_name) == ("FINISHED", "a run")
    assert known.data.params["run"] == str(run.path)
    history = {name: client.get_metric_history(known.info.run_id, name) for name in known.data.metrics}
    assert [value.step for value in history["step_loss"]] == STEPS
    assert [value.step for value in history["map_at_r"]] == [2, 4, 6]
    assert history["test/map_at_r"][0].value == run.scores()["test"]["map_at_r"]
    files = sorted((run.path / "wandb").glob(f"offline-run-*-{after['wandb']['id']}/*.wandb"))
    assert len(files) == 2
    assert b"test/map_at_r" in files[-1].read_bytes()
