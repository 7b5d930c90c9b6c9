import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

import ccpml
from ccpml.runs.inference import Run, embed_run, evaluate_run
from ccpml.runs.train import train
from tests.toy import quick_settings, toy_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    settings = quick_settings(data=f"folder:{folder}", method="plain")
    return ccpml.load_run(train(settings, str(tmp_path_factory.mktemp("runs") / "run"), progress=False).path)


def test_a_loaded_run_has_the_settings_and_scores_it_was_trained_with(run):
    assert (run.settings.method, run.settings.embedding_dim, run.settings.channels) == ("plain", 8, 1)
    assert run.scores["splits"]["test"] == {"classes": 6, "images": 30}


def test_embeddings_are_those_of_the_run_s_own_evaluation(run):
    with np.load(run.path / "embeddings" / "test.npz") as file:
        paths, expected = file["paths"].tolist(), torch.from_numpy(file["embeddings"])
    torch.testing.assert_close(run.embed(paths, batch_size=7), expected)
    arrays = [np.array(Image.open(path)) for path in paths]
    torch.testing.assert_close(run.embed(arrays), expected)
    torch.testing.assert_close(run.embed([Image.open(path) for path in paths]), expected)


def test_the_autocast_of_the_caller_changes_no_embedding_and_no_score(run):
    images = [np.random.default_rng(seed).integers(0, 255, (28, 28), np.uint8) for seed in range(4)]
    expected, scores = run.embed(images), evaluate_run(run.path).scores.map_at_r
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run.embed(images), expected)
        assert evaluate_run(run.path).scores.map_at_r == scores
        assert torch.is_autocast_enabled("cpu")


def test_the_fingerprint_covers_weights_and_preprocessing_and_nothing_else(run):
    settings = run.settings
    same = [run, ccpml.load_run(run.path), Run(run.path, replace(settings, seed=9, device="auto"))]
    others = [Run(run.path, replace(settings, **change)) for change in ({"pooling": "max"}, {"image_size": 32})]
    weights, normalized = ccpml.load_run(run.path), ccpml.load_run(run.path)
    with torch.no_grad():
        weights.model.linear.weight[0, 0] += 1e-6
    convention = normalized.model.backbone.convention
    normalized.model.backbone.convention = replace(convention, mean=tuple(x + 0.01 for x in convention.mean))
    assert len({one.fingerprint for one in same}) == 1
    assert len({one.fingerprint for one in [run, *others, weights, normalized]}) == 5


def test_images_of_other_sizes_and_colors_are_embedded(run):
    gray, color = np.zeros((60, 41), np.uint8), np.full((35, 80, 3), 200, np.uint8)
    embeddings = run.embed([gray, color])
    assert embeddings.shape == (2, 8)
    assert embeddings.norm(dim=1).max() <= 1 + 1e-6
    assert run.embed([]).shape == (0, 8)


def test_images_that_cannot_be_read_are_named(run, tmp_path):
    with pytest.raises(ValueError, match=r"missing\.png"):
        run.embed([tmp_path / "missing.png"])
    with pytest.raises(ValueError, match="expected uint8"):
        run.embed([np.zeros((4, 4), np.float32)])
    with pytest.raises(ValueError, match=r"expected a sequence of images, got the path a\.png"):
        run.embed("a.png")
    with pytest.raises(ValueError, match="image 0: expected a path, contents or an array, got NoneType"):
        run.embed([None])


def test_embeddings_that_are_not_finite_are_an_error(run, tmp_path):
    broken = ccpml.load_run(run.path)
    next(broken.model.parameters()).data.fill_(torch.nan)
    message = "expected finite embeddings, got NaN or infinity for 2 of 2 images, such as image 0; the weights have div"
    with pytest.raises(ValueError, match=message):
        broken.embed([np.zeros((60, 41), np.uint8)] * 2)


def test_a_network_that_is_first_used_in_inference_mode_can_be_trained_later(run):
    own = ccpml.load_run(run.path)
    with torch.inference_mode():
        embeddings = own.embed([np.zeros((60, 41), np.uint8)])
    model = own.model.requires_grad_(True)
    model(torch.rand(2, 1, 32, 32)).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert torch.equal(embeddings, run.embed([np.zeros((60, 41), np.uint8)]))


def test_one_image_in_place_of_several_is_refused(run):
    """The rows of an array would be taken as images, silently."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    for image in (pixels, pixels[:, :, 0], pixels[:, :, :1], Image.fromarray(pixels), file.getvalue()):
        with pytest.raises(ValueError, match=r"images: expected a sequence of images, got .*; pass a list"):
            run.embed(image)
        assert run.embed([image]).shape == (1, 8)
    assert run.embed(np.stack([pixels] * 2)).shape == (2, 8)
    assert run.embed(np.stack([pixels[:, :, 0]] * 2)).shape == (2, 8)


@pytest.mark.parametrize("mode", ["P", "1", "LA", "RGBA", "CMYK", "I", "F", "LAB", "HSV", "YCbCr"])
def test_images_of_pillow_whose_pixels_are_no_colors_are_refused(run, mode):
    """Those of a palette are numbers of its colors, which would be taken as gray."""
    image = Image.fromarray(np.zeros((30, 40, 3), np.uint8))
    image = image.convert("LAB") if mode == "LAB" else image.convert(mode)
    with pytest.raises(ValueError, match=f"image 1: expected one of Pillow in mode L or RGB, got {mode}; convert"):
        run.embed([np.zeros((30, 40), np.uint8), image])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_of_pillow_with_a_rotation_are_refused_and_taken_upright(run, tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).convert(mode).save(tmp_path / "phone.png", exif=exif)
    opened, expected = Image.open(tmp_path / "phone.png"), run.embed([tmp_path / "phone.png"])
    for image in (opened, opened.convert("L"), opened.rotate(270, expand=True)):  # of which none has forgotten it
        with pytest.raises(
            ValueError, match=r"image 0: an image of Pillow with an EXIF rotation; pass PIL\.ImageOps\."
        ):
            run.embed([image])
    torch.testing.assert_close(run.embed([ImageOps.exif_transpose(opened)]), expected)
    torch.testing.assert_close(run.embed([np.asarray(opened.rotate(270, expand=True))]), expected)


def test_images_without_labels_are_embedded(run, tmp_path):
    (tmp_path / "flat").mkdir()
    for number in range(3):
        Image.fromarray(np.full((40, 30), 50 * number, np.uint8)).save(tmp_path / "flat" / f"{number}.png")
    (tmp_path / "list.csv").write_text("path\nflat/0.png\nflat/2.png\n")
    for data, rows in ((f"folder:{tmp_path / 'flat'}", [0, 1, 2]), (f"csv:{tmp_path / 'list.csv'}", [0, 2])):
        output = tmp_path / f"{len(rows)}.npz"
        assert embed_run(run.path, data, output) == len(rows)
        with np.load(output) as file:
            assert [path[-5:] for path in file["paths"]] == [f"{row}.png" for row in rows]
            assert file["class_names"].tolist() == [""]
            expected = run.embed([tmp_path / "flat" / f"{row}.png" for row in rows])
            torch.testing.assert_close(torch.from_numpy(file["embeddings"]), expected)


def test_a_folder_that_is_not_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        ccpml.load_run(tmp_path)


def test_a_run_on_a_relative_path_names_its_images_for_any_folder(tmp_path, monkeypatch):
    photos = toy_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    run = train(quick_settings(data="folder:photos", max_steps=0), "run", progress=False)
    with np.load(run.embeddings / "test.npz") as file:
        paths = file["paths"].tolist()
    assert paths
    assert all(path.startswith(f"{photos.resolve()}/") for path in paths)
