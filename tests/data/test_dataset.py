import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ccpml.data import (
    BadImageError,
    ClassBalancedBatches,
    Draw,
    EvalTransform,
    ImageDataset,
    ImageTable,
    TrainTransform,
    eval_loader,
    in_chunks,
    load_source,
    pool_draws,
    train_loader,
)
from ccpml.data.seeds import CROPS, generator
from tests.data.image_files import encoded, smooth


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    folder = tmp_path_factory.mktemp("images")
    paths = tuple(folder / f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(14))
    for number, path in enumerate(paths):
        kind = "JPEG" if path.suffix == ".jpg" else "PNG"
        path.write_bytes(encoded(np.roll(smooth(40 + number, 50), 5 * number, axis=1), kind))
    return ImageTable(paths, np.arange(14) // 4, ("a", "b", "c", "d"))


def everything(loader: torch.utils.data.DataLoader[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(images, labels) for images, labels in loader]


def test_items_are_channels_first_and_depend_on_the_draw_alone(table: ImageTable) -> None:
    dataset = ImageDataset(table, TrainTransform(16), channels=3, seed=4)
    image, label = dataset[Draw(2, 5, 1)]
    assert (image.shape, image.dtype, label) == ((3, 16, 16), torch.uint8, 1)
    assert torch.equal(image, dataset[Draw(2, 5, 1)][0])
    others = [Draw(3, 5, 1), Draw(2, 5, 0), Draw(-2, 5, 1), Draw(2, 6, 1)]
    assert not any(torch.equal(image, dataset[draw][0]) for draw in others)
    assert not torch.equal(image, ImageDataset(table, TrainTransform(16), 3, seed=5)[Draw(2, 5, 1)][0])
    assert dataset[np.int64(3)][0].shape == (3, 16, 16)  # type: ignore[index]
    assert len(dataset) == 14


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("of_torch", [True, False], ids=["DataLoader", "train_loader"])
def test_rows_alone_have_new_crops_in_each_epoch(table: ImageTable, of_torch: bool, workers: int) -> None:
    """Also with workers, which start in each epoch as copies of this process."""
    dataset = ImageDataset(table, TrainTransform(16), channels=3)
    rows = [list(range(7)), list(range(7, 14))]

    def epochs(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        if of_torch:
            loader = torch.utils.data.DataLoader(dataset, batch_size=7, num_workers=workers)
        else:
            loader = train_loader(dataset, rows, workers)
        return [torch.cat([images for images, _ in loader]) for _ in range(3)]

    found = epochs(0)
    assert len({image.numpy().tobytes() for images in found for image in images}) == 3 * 14
    assert all(torch.equal(*pair) for pair in zip(found, epochs(0), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(found, epochs(1), strict=True))


def test_a_loader_of_batches_has_new_ones_in_each_epoch(table: ImageTable) -> None:
    dataset, batches = ImageDataset(table, TrainTransform(16), channels=3), ClassBalancedBatches(table.labels, 2, 2, 0)
    loader = train_loader(dataset, batches.steps(4, 7))
    twice = [everything(loader) for _ in range(2)]
    once = everything(train_loader(dataset, batches.steps(4, 10)))
    assert len(loader) == 3
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(twice[0] + twice[1], once, strict=True))


def test_items_equal_crops_of_pillow(table: ImageTable) -> None:
    transform = TrainTransform(16)
    dataset = ImageDataset(table, transform, channels=3, seed=1)
    for row in range(14):
        rng = generator(CROPS, 1, 2, row, 0)
        with Image.open(str(table.images[row])) as image:
            left, top, width, height = transform.crop(*image.size, rng)
            crop = image.convert("RGB").crop((left, top, left + width, top + height))
        pixels = np.asarray(crop.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
        expected = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        assert np.abs(dataset[Draw(2, row, 0)][0].numpy().transpose(1, 2, 0) - expected).max() <= 2


def test_batches_do_not_depend_on_the_number_of_workers(table: ImageTable) -> None:
    dataset = ImageDataset(table, TrainTransform(16), channels=3, seed=0)
    batches = ClassBalancedBatches(table.labels, 2, 3, seed=0)
    here, there = (everything(train_loader(dataset, batches.steps(1, 6), workers)) for workers in (0, 2))
    assert len(here) == len(there) == 5
    for (images, labels), (images2, labels2) in zip(here, there, strict=True):
        assert torch.equal(images, images2)
        assert torch.equal(labels, labels2)
        assert images.shape == (6, 3, 16, 16)
        assert labels.dtype == torch.int64


def test_pools_can_be_loaded(table: ImageTable) -> None:
    dataset = ImageDataset(table, TrainTransform(16), channels=1)
    batches = everything(train_loader(dataset, in_chunks(pool_draws(table.labels, 3, 0, 0), 5)))
    labels = torch.cat([labels for _, labels in batches]).reshape(4, 3)
    assert torch.equal(labels, torch.arange(4)[:, None].expand(4, 3))
    images = torch.cat([images for images, _ in batches])
    assert len({image.numpy().tobytes() for image in images}) == 12  # repeated rows have different crops


def test_evaluation_is_in_order_and_keeps_the_global_random_state(table: ImageTable) -> None:
    loaders = [eval_loader(table, EvalTransform(16), 3, batch_size=4, workers=workers) for workers in (0, 2)]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    passes = [everything(loader) for loader in loaders for _ in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    assert len(loaders[0]) == 4
    for batches in passes:
        assert torch.cat([labels for _, labels in batches]).tolist() == table.labels.tolist()
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, passes[0], strict=True))


def test_images_in_memory() -> None:
    table = ImageTable(smooth(9, 8)[None], np.array([0]), ("a",))
    transform = EvalTransform(8, resize=8)
    assert isinstance(table.images, np.ndarray)
    assert torch.equal(
        ImageDataset(table, transform, channels=3)[0][0],
        torch.from_numpy(transform(table.images[0])).permute(2, 0, 1),
    )
    assert ImageDataset(table, transform, channels=1)[0][0].shape == (1, 8, 8)


def test_a_bad_image_is_named_by_a_worker(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    table = ImageTable((tmp_path / "bad.png",), np.array([0]), ("a",))
    for workers in (0, 1):
        with pytest.raises(BadImageError, match=r"^/\S+bad\.png: not an image [^\n]+$"):
            everything(eval_loader(table, EvalTransform(8), 3, batch_size=1, workers=workers))


class _FailingDataset(ImageDataset):
    def __getitem__(self, draw: object) -> tuple[Tensor, int]:
        raise OSError(24, "Too many open files", "a.png")


def test_an_error_of_the_system_in_a_worker_keeps_its_number(table: ImageTable) -> None:
    dataset = _FailingDataset(table, EvalTransform(8), 3)
    with pytest.raises(OSError, match=r"Too many open files: 'a\.png'$") as caught:
        everything(train_loader(dataset, [[0]], workers=1))
    assert (caught.value.errno, caught.value.filename) == (24, "a.png")


class _MaskDataset(ImageDataset):
    def __getitem__(self, draw: object) -> tuple[Tensor, int]:
        return torch.tensor([sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))], dtype=torch.float32), 0


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_begin_with_the_signals_of_a_terminal_blocked(table: ImageTable, persistent: bool) -> None:
    """Until they ignore them, they have the handlers of the main process, which raise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    loader = train_loader(_MaskDataset(table, EvalTransform(8), 3), [[0], [1]], workers=1, persistent=persistent)
    for images, _ in everything(loader):
        assert {signal.SIGINT, signal.SIGHUP} <= set(images.int().flatten().tolist())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_arguments_of_another_type_or_range_are_named(table: ImageTable) -> None:
    with pytest.raises(ValueError, match="table: expected an ImageTable, got ndarray"):
        ImageDataset(np.zeros((2, 8, 8), np.uint8), EvalTransform(8), channels=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="transform: expected a TrainTransform or EvalTransform, got function"):
        ImageDataset(table, lambda image: image, channels=1)  # type: ignore[arg-type]
    for size in (0, -2, 2.0):
        with pytest.raises(ValueError, match="batch_size: expected an integer of at least 1, got"):
            eval_loader(table, EvalTransform(8), 1, size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rank: expected 0\.\.1, got 2"):
        eval_loader(table, EvalTransform(8), 1, 2, rank=2, world_size=2)
    with pytest.raises(ValueError, match="data: expected a name, such as folder:<path>, got "):
        load_source(Path("photos"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="draw: expected an integer of at least 0, got -1"):
        pool_draws(table.labels, 2, seed=0, draw=-1)  # its crops would be those of training
