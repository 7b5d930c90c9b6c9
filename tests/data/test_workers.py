"""Worker processes of the loaders leave nothing behind, however they end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ccpml.data import (
    BadImageError,
    ClassBalancedBatches,
    Draw,
    ImageDataset,
    ImageTable,
    TrainTransform,
    build_cache,
    load_source,
    train_loader,
)
from ccpml.data.dataset import ended_workers
from tests.data.image_files import encoded, smooth

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at /proc")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Watched(ImageDataset):
    """A dataset that returns open files and peak memory (MiB) of the loading process instead of the class."""

    def __getitem__(self, draw: Draw | int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        image, _ = super().__getitem__(draw)
        return image, torch.tensor([open_files(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "class").mkdir()
    for number in range(16):
        (folder / f"class/{number}.jpg").write_bytes(encoded(smooth(400, 500 + number), "JPEG"))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_memory_and_open_files_do_not_grow(folder: Path, packed: bool) -> None:
    """Keeping one image per draw would take 36 MiB per epoch; keeping a file open, 64 files."""
    if packed:
        build_cache(f"folder:{folder}", progress=False)
    table = load_source(f"folder:{folder}", side=256 if packed else None).table
    steps = ClassBalancedBatches(table.labels, 1, 16, seed=0).steps(0, 4)
    loader = train_loader(Watched(table, TrainTransform(64), 3), steps, workers=1, persistent=True)
    epochs = [torch.cat([seen for _, seen in loader]).amax(0) for _ in range(5)]
    files, mib = torch.stack(epochs).T.tolist()
    assert max(files) - min(files) < 20
    assert mib[-1] - mib[1] < 20
    mappings = Path("/proc/self/maps").read_text().count("pixels-")
    dataset = ImageDataset(table, TrainTransform(64), 3)
    assert all(dataset[row][0].shape == (3, 64, 64) for row in range(16))
    assert Path("/proc/self/maps").read_text().count("pixels-") == mappings + packed


@contextmanager
def no_process_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    deadline = time.monotonic() + 4  # torch terminates workers after five seconds
    while set(multiprocessing.active_children()) - before:
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.02)


def four_squares(persistent: bool = False) -> torch.utils.data.DataLoader[tuple[Tensor, Tensor]]:
    table = ImageTable(np.zeros((4, 9, 9), np.uint8), np.arange(4) // 2, ("a", "b"))
    steps = ClassBalancedBatches(table.labels, 2, 2, seed=0).steps(0, 9)
    return train_loader(ImageDataset(table, TrainTransform(8), 3), steps, workers=2, persistent=persistent)


def test_workers_end_with_the_epoch_a_break_or_the_loader() -> None:
    with no_process_left():
        assert len(list(four_squares())) == 9
    with no_process_left():
        for _ in four_squares():
            break
    with no_process_left():
        loader = four_squares(persistent=True)
        assert sum(1 for _ in range(2) for _ in loader) == 18
        assert len(multiprocessing.active_children()) >= 2
        del loader


@pytest.mark.parametrize("persistent", [True, False])
def test_workers_end_with_a_block_and_start_again(persistent: bool) -> None:
    loader, before = four_squares(persistent), set(multiprocessing.active_children())
    for _ in range(2):
        with ended_workers(loader, four_squares(True)):
            assert sum(1 for _ in loader) == 9
        assert not set(multiprocessing.active_children()) - before
    with suppress(KeyboardInterrupt), ended_workers(loader):
        for _ in loader:
            raise KeyboardInterrupt
    assert not set(multiprocessing.active_children()) - before


def test_workers_end_with_an_exception(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    table = ImageTable((tmp_path / "bad.png",), np.array([0]), ("a",))
    loader = train_loader(ImageDataset(table, TrainTransform(8), 3), [[Draw(0, 0)]] * 5, workers=2)
    with no_process_left(), suppress(BadImageError):
        list(loader)
    with no_process_left(), suppress(ZeroDivisionError):
        for _ in four_squares():
            raise ZeroDivisionError


SCRIPT = """
    import multiprocessing
    import numpy as np
    import torch
    from ccpml.data import ImageDataset, ImageTable, TrainTransform, ClassBalancedBatches, dataset, train_loader
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = dataset._PATIENCE = 0.5
    table = ImageTable(np.zeros((4, 9, 9), np.uint8), np.arange(4) // 2, ("a", "b"))
    steps = ClassBalancedBatches(table.labels, 2, 2, seed=0).steps(0, 10**9)
    try:
        for _ in train_loader(ImageDataset(table, TrainTransform(8), 3), steps, workers=2):
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def runs(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    "end",
    [
        *("Ctrl-C", "SIGINT to the main process", "SIGKILL to the main process"),
        *("SIGINT while a worker is stopped", "SIGKILL while a worker is stopped"),
    ],
)
def test_workers_end_quietly_with_the_main_process(end: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        workers = [int(number) for number in process.stdout.readline().split()]
        assert len(workers) == 2
        if "stopped" in end:
            os.kill(workers[0], signal.SIGSTOP)
        if end == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the process group
        else:
            process.send_signal(signal.SIGINT if "INT" in end else signal.SIGKILL)
        out, err = process.communicate(timeout=300)  # returns when the workers have closed their ends of the pipes, too
        deadline = time.monotonic() + 60
        while any(map(runs, workers)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(runs, workers))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in err
    assert process.returncode == (-signal.SIGKILL if "KILL" in end else 0)
    assert out.endswith("interrupted\n") or "KILL" in end


SLOW_START = """
    import multiprocessing, os, signal, threading, time
    import numpy as np
    from ccpml.data import ImageDataset, ImageTable, TrainTransform, dataset, train_loader
    start = dataset._start_worker
    def start_slowly(number):
        while os.getppid() == main:
            time.sleep(0.01)
        start(number)
    dataset._start_worker, main = start_slowly, os.getpid()
    table = ImageTable(np.zeros((4, 9, 9), np.uint8), np.arange(4) // 2, ("a", "b"))
    batches = iter(train_loader(ImageDataset(table, TrainTransform(8), 3), [[0, 1]] * 9, workers=2))
    threading.Thread(target=lambda: next(batches)).start()
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    os.kill(main, signal.SIGKILL)
"""


def test_workers_end_if_the_main_process_is_killed_while_they_start() -> None:
    command = [sys.executable, "-c", textwrap.dedent(SLOW_START)]
    # It returns when the workers have closed their ends of the pipes, too.
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, start_new_session=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")
