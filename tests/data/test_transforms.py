from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ccpml.data import Draw, EvalTransform, ImageDataset, ImageTable, TrainTransform, read_image
from tests.data.image_files import encoded, smooth

sides = st.integers(1, 400)


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(0, 999))
def test_crops_are_inside_the_image_with_area_and_aspect_in_range(width: int, height: int, seed: int) -> None:
    left, top, w, h = TrainTransform(8).crop(width, height, np.random.default_rng(seed))
    assert 0 <= left < left + w <= width
    assert 0 <= top < top + h <= height
    # up to the rounding of each side to pixels
    assert (w - 0.51) / (h + 0.51) <= 4 / 3
    assert (w + 0.51) / (h - 0.51 if h > 1 else 0.1) >= 3 / 4
    if max(width, height) <= 2 * min(width, height):
        assert (w + 0.51) * (h + 0.51) >= 0.16 * width * height


def test_distribution_of_crops() -> None:
    transform, rng = TrainTransform(8), np.random.default_rng(0)
    boxes = np.array([transform.crop(1000, 1000, rng) for _ in range(4000)])
    left, top, w, h = boxes.T
    area, aspect = w * h / 1e6, np.log(w / h)
    assert area.min() < 0.17
    assert area.max() > 0.95
    small = area < 0.7  # none of these is rejected: area uniform in [0.16, 0.7], aspect symmetric
    assert abs(area[small].mean() - 0.43) < 0.01
    assert abs(aspect[small].mean()) < 0.01
    assert abs(aspect[small].std() - np.log(4 / 3) / 3**0.5) < 0.01
    for offset, room in ((left, 1000 - w), (top, 1000 - h)):
        assert abs((offset / np.maximum(room, 1)).mean() - 0.5) < 0.02


def test_the_largest_center_crop_if_none_fits() -> None:
    rng = np.random.default_rng(0)
    assert TrainTransform(8).crop(1000, 10, rng) == (493, 0, 13, 10)
    assert TrainTransform(8).crop(9, 1000, rng) == (0, 494, 9, 12)
    assert TrainTransform(8).crop(1, 50, rng)[2:] == (1, 1)
    assert TrainTransform(8, min_area=1.0, aspect=(1.0, 1.0)).crop(30, 30, rng) == (0, 0, 30, 30)


@pytest.mark.parametrize("channels", [1, 3])
def test_full_images_are_resized_as_by_pillow(channels: int) -> None:
    pixels = smooth(90, 90, channels).reshape(90, 90, channels)
    whole = TrainTransform(32, min_area=1.0, flip=False, aspect=(1.0, 1.0))
    expected = np.asarray(Image.fromarray(pixels.squeeze()).resize((32, 32), Image.Resampling.BILINEAR))
    straight = whole(pixels, np.random.default_rng(0))
    assert np.abs(straight.squeeze().astype(int) - expected).max() <= channels // 2  # gray: exactly
    flipped = TrainTransform(32, min_area=1.0, aspect=(1.0, 1.0))
    results = [flipped(pixels, np.random.default_rng(seed)) for seed in range(200)]
    count = sum(np.array_equal(result, straight) for result in results)
    assert count + sum(np.array_equal(result, straight[:, ::-1]) for result in results) == 200
    assert 65 < count < 135


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 60), st.integers(0, 999))
def test_color_crops_equal_those_of_pillow_up_to_rounding(width: int, height: int, size: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    view = TrainTransform(size).view(pixels.shape, np.random.default_rng(seed))
    expected = Image.fromarray(pixels).crop(view.box).resize((size, size), Image.Resampling.BILINEAR)
    difference = np.abs(view.of(pixels).astype(int) - np.asarray(expected)[:, :: -1 if view.flip else 1])
    assert difference.max() <= 2  # noise, rounded in either direction
    assert difference.mean() <= 0.5


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 60), st.integers(0, 999))
def test_gray_crops_equal_those_of_pillow_with_pixels_around_the_box(
    width: int, height: int, size: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 1), dtype=np.uint8)
    view = TrainTransform(size).view(pixels.shape, np.random.default_rng(seed))
    expected = Image.fromarray(pixels[:, :, 0]).resize((size, size), Image.Resampling.BILINEAR, box=view.box)
    assert np.array_equal(view.of(pixels)[:, :, 0], np.asarray(expected)[:, :: -1 if view.flip else 1])


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from([1, 3]), st.integers(1, 60), st.integers(0, 999))
def test_a_view_needs_only_its_rows(width: int, height: int, channels: int, size: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    for transform in (TrainTransform(size), EvalTransform(size)):
        view = transform.view(pixels.shape, np.random.default_rng(seed))
        assert np.array_equal(view.of(pixels[: view.rows]), view.of(pixels))


def test_equal_generators_give_equal_crops() -> None:
    pixels, transform = smooth(50, 70), TrainTransform(16)
    first, second, other = (transform(pixels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (512, 512), (256, 384), (100, 200), (768, 512)])
def test_eval_is_resize_then_center_crop(height: int, width: int) -> None:
    """The two steps are the reference, at sizes where neither rounds."""
    pixels = smooth(height, width)
    transform = EvalTransform(226, resize=256)
    scale = 256 / min(height, width)
    full = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (full.width - 226) // 2, (full.height - 226) // 2
    expected = np.asarray(full.crop((left, top, left + 226, top + 226)))
    assert np.abs(transform(pixels).astype(int) - expected).max() <= 1


def test_the_default_proportion_is_that_of_the_paper() -> None:
    assert EvalTransform(227).side == 256
    assert EvalTransform(224).side == 253
    assert EvalTransform(64).side == 72
    assert EvalTransform(64, resize=64).side == 64


def test_crops_of_one_pixel_become_tensors() -> None:
    table = ImageTable(np.zeros((2, 9, 9, 3), np.uint8), np.array([0, 1]), ("a", "b"))
    dataset = ImageDataset(table, TrainTransform(1), 3)
    assert {tuple(dataset[Draw(epoch, 0)][0].shape) for epoch in range(9)} == {(3, 1, 1)}  # flipped ones too


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from([1, 3]), st.integers(1, 40), st.integers(0, 9))
def test_results_are_square(height: int, width: int, channels: int, size: int, extra: int) -> None:
    pixels = np.full((height, width, channels), 77, np.uint8)
    for transform in (TrainTransform(size), EvalTransform(size), EvalTransform(size, resize=size + extra)):
        result = transform(pixels, np.random.default_rng(0))
        assert result.shape == (size, size, channels)
        assert result.dtype == np.uint8
        assert (result == 77).all()


def test_reduced_jpegs_keep_what_the_transforms_need() -> None:
    for size in (32, 227):
        transform = TrainTransform(size)
        side = transform.min_size
        smallest = min(min(transform.crop(side, side, np.random.default_rng(seed))[2:]) for seed in range(500))
        assert size <= smallest < 1.3 * size
    assert EvalTransform(64).min_size == 144
    data, transform = encoded(smooth(600, 800), "JPEG", quality=95), EvalTransform(64)
    reduced = read_image(data, 3, transform.min_size)
    assert reduced.shape == (150, 200, 3)
    assert np.abs(transform(reduced).astype(int) - transform(read_image(data, 3))).max() <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": 8, "min_area": 0.0}, "area"),
        ({"size": 8, "min_area": 0.5, "max_area": 0.4}, "area"),
        ({"size": 8, "max_area": 1.1}, "area"),
        ({"size": 8, "aspect": (2.0, 1.0)}, "aspect"),
    ],
)
def test_train_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(**arguments)


def test_other_arguments() -> None:
    for wrong in ({"size": 0}, {"size": 9, "resize": 8}):
        with pytest.raises(ValueError, match="size"):
            EvalTransform(**wrong)
    with pytest.raises(ValueError, match="rng"):
        TrainTransform(8)(smooth(9, 9))
