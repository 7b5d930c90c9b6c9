"""What is chosen for which images."""

from dataclasses import fields

import pytest

from ccpml.data_name import BENCHMARKS
from ccpml.runs.defaults import DataFacts, fitting_folds, is_saturated, notes
from ccpml.runs.settings import ResolvedSettings, Settings

PHOTOS = {"color": True, "side": 400, "train_images": 720, "validation_images": 240, "looked_at": 500}


def photos(**changes: object) -> DataFacts:
    return DataFacts(**{**PHOTOS, **changes})


def resolved(facts: DataFacts | None = None, **given: object) -> ResolvedSettings:
    return Settings(data="folder:photos", **given).resolved(facts or photos())


def test_photographs_are_fine_tuned_by_the_last_stages_on_a_cpu_and_whole_on_a_gpu() -> None:
    e, gpu = resolved(), resolved(photos(gpu=True))
    assert (e.backbone, e.weights, e.freeze_batchnorm, e.lr_schedule) == (
        "efficientnet_lite0",
        "imagenet",
        True,
        "constant",
    )
    assert (e.image_size, e.trained_stages, gpu.image_size, gpu.trained_stages) == (160, 4, 224, "all")
    assert (gpu.backbone, gpu.weights) == (e.backbone, e.weights)
    assert gpu.max_steps > e.max_steps


def test_small_gray_pictures_are_trained_from_nothing_as_before() -> None:
    e = resolved(DataFacts(side=105))
    assert (e.backbone, e.weights, e.freeze_batchnorm, e.trained_stages) == ("small_conv", "none", False, "all")
    assert (e.image_size, e.lr, e.lr_schedule, e.augment) == (32, 1e-3, "constant", "mild")
    assert (e.max_steps, e.validate_every) == (1500, 25)
    assert resolved(DataFacts(side=129)).backbone == "efficientnet_lite0"


def test_xbm_compares_with_a_full_memory_in_fine_tuning_and_later_from_nothing() -> None:
    tuned, short, nothing = resolved(method="xbm"), resolved(max_steps=30), resolved(DataFacts(side=105))
    assert (tuned.memory_start, short.memory_start, nothing.memory_start) == (tuned.memory_batches, 20, 1000)
    assert resolved(backbone="resnet50", weights="none").memory_start > tuned.memory_start


@pytest.mark.parametrize("steps", [20, 44, 46, None])
def test_the_proxies_of_a_loss_warm_up_in_at_most_half_of_the_budget(steps: int | None) -> None:
    settings = Settings(data="folder:photos", method="plain", loss="proxy_anchor", max_steps=steps)
    chosen = [str(choice) for choice in settings.choices(photos()) if "warmup_epochs" in choice.settings]
    long = "warmup_epochs 0: a pass through the training images is more than half of the budget"
    assert chosen == (["warmup_epochs 1"] if steps in {46, None} else [long])  # a pass is 22.5 batches
    assert resolved(loss="triplet", max_steps=steps).warmup_epochs == 0


@pytest.mark.parametrize(
    ("side", "gpu", "size"), [(30, False, 64), (50, False, 96), (79, False, 128), (81, False, 160), (4000, True, 224)]
)
def test_images_are_at_most_doubled(side: int, gpu: bool, size: int) -> None:
    assert resolved(photos(side=side, gpu=gpu)).image_size == size


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "bn_inception", "resnet50", "timm:vit_tiny_patch16_224"])
def test_backbones_with_published_weights_take_them_everywhere(backbone: str) -> None:
    e = resolved(backbone=backbone)
    assert (e.weights, e.freeze_batchnorm, e.lr_schedule) == ("imagenet", True, "constant")
    assert e.lr > 1e-5
    assert e.max_steps < 501
    assert resolved(DataFacts(), backbone=backbone).weights == "imagenet"


def test_weights_alone_choose_a_backbone_that_has_them() -> None:
    assert resolved(DataFacts(), weights="imagenet").backbone == "efficientnet_lite0"
    assert resolved(DataFacts(), weights="own.pth").backbone == "small_conv"


@pytest.mark.parametrize("data", ["folder:photos", "cub"])
def test_random_weights_are_trained_with_their_statistics(data: str) -> None:
    e = Settings(data=data, backbone="resnet50", weights="none").resolved(photos())
    assert (e.freeze_batchnorm, e.trained_stages, e.lr, e.lr_schedule) == (False, "all", 1e-3, "constant")
    assert notes(vars(e), photos()) == []
    frozen = Settings(data=data, backbone="resnet50", weights="none", freeze_batchnorm=True, trained_stages=2)
    batchnorm, stages = notes(vars(frozen.resolved(photos())), photos())
    assert batchnorm.startswith("freeze_batchnorm true with weights none")
    assert stages.startswith("trained_stages 2 with weights none")


@pytest.mark.parametrize("data", BENCHMARKS)
@pytest.mark.parametrize("facts", [DataFacts(), photos(gpu=True), photos(train_classes=3, classes=5)])
def test_the_paper_s_settings_do_not_depend_on_the_images(data: str, facts: DataFacts) -> None:
    given = {"classes_per_batch": 8, "folds": 4}
    assert Settings(data=data, **given).resolved(facts) == Settings(data=data, **given).resolved()
    other = Settings(data=data, backbone="resnet50").resolved(photos())
    assert (other.weights, other.lr, other.image_size, other.max_steps) == ("imagenet", 1e-5, 227, 150_000)
    assert (other.lr_schedule, other.head_lr_factor) == ("constant", 1.0)


def test_epochs_are_passes_through_the_training_images() -> None:
    assert resolved(epochs=2).max_steps == 45
    assert resolved(epochs=2, classes_per_batch=2).max_steps == 180
    assert resolved(DataFacts(train_images=320), epochs=0.5).max_steps == 5
    assert resolved(epochs=0.001).max_steps == 1
    with pytest.raises(ValueError, match=r"max_steps: expected null with epochs = 2, got 5"):
        resolved(epochs=2, max_steps=5)


@pytest.mark.parametrize(("images", "steps"), [(32, 200), (720, 450), (60_000, 500)])
def test_a_budget_is_some_passes_within_bounds(images: int, steps: int) -> None:
    assert resolved(photos(train_images=images)).max_steps == steps


def test_validations_are_many_but_do_not_take_longer_than_training() -> None:
    def validations(**changes: int) -> float:
        e = resolved(photos(**changes))
        return e.max_steps / e.validate_every

    assert 20 <= validations() <= 40
    assert validations(train_images=60_000, validation_images=15_000) < 10
    assert resolved(max_steps=3).validate_every == 1
    start = Settings(data="folder:photos", max_steps=0).choices(photos())
    assert not any("0 validations" in str(choice) for choice in start)
    assert resolved(DataFacts(), max_steps=200).max_steps / resolved(DataFacts(), max_steps=200).validate_every >= 20


def test_few_classes_shrink_batches_and_folds() -> None:
    few = photos(classes=6, train_classes=4, train_images=32, validation_classes=2, validation_images=16)
    e = resolved(few)
    assert (e.folds, e.classes_per_batch, e.samples_per_class) == (3, 4, 4)
    assert resolved(few, loss="proxy_anchor", method="plain").classes_per_batch == 4
    assert resolved(few, ranks=2, method="plain").classes_per_batch == 4
    assert resolved(photos(train_classes=5), ranks=2).classes_per_batch == 4
    assert resolved(photos(train_classes=50), ranks=3).classes_per_batch == 6
    assert resolved(photos(train_classes=50), ranks=16).classes_per_batch == 16
    choices = Settings(data="folder:photos", ranks=3).choices(photos(train_classes=50))
    assert "classes_per_batch 6: each of 3 ranks has as many" in map(str, choices)
    said = " ".join(map(str, Settings(data="folder:photos").choices(few)))
    assert "classes_per_batch 4: there are 4 training classes" in said
    assert "folds 3: " in said
    assert any(note.startswith("validation has 2 classes, too few") for note in notes(vars(e), few))
    assert notes(vars(resolved()), photos()) == []
    assert [fitting_folds(count) for count in (1, 4, 5, 6, 7, 8, 100)] == [2, 2, 2, 3, 3, 4, 4]


def test_what_is_given_is_kept_and_not_named() -> None:
    given = {"backbone": "resnet50", "image_size": 100, "trained_stages": 0, "lr": 0.5, "freeze_batchnorm": False}
    e = resolved(**given)
    assert {name: getattr(e, name) for name in given} == given
    chosen = [name for choice in Settings(data="folder:photos", **given).choices(photos()) for name in choice.settings]
    assert not set(chosen) & set(given)
    assert len(chosen) == len(set(chosen))
    assert e.choices(photos()) == []


def test_every_setting_without_a_default_is_chosen_once() -> None:
    chosen = [name for choice in Settings(data="folder:photos").choices(photos()) for name in choice.settings]
    open_ = {each.name for each in fields(Settings) if getattr(Settings(), each.name) is None}
    assert set(chosen) == open_ - {"test_classes", "epochs"} | {"projections.warm_start"}


def test_unusual_images_are_counted() -> None:
    facts = photos(gray=3, small=2, large=5)
    found = notes(vars(resolved(facts)), facts)
    counts = ["gray: 3", "more than 20 megapixels: 5", "smaller than 64 pixels: 2"]
    assert [note.partition(" of 500 images looked at; ")[0] for note in found] == counts
    assert notes(vars(resolved(DataFacts(gray=500, small=500))), DataFacts(gray=500, small=500)) == []


def test_a_validation_without_errors_is_saturated() -> None:
    assert is_saturated({"validation": {"map_at_r": 1.0}})
    assert not is_saturated({"validation": {"map_at_r": 0.9}})


@pytest.mark.parametrize(("ranks", "classes", "expected"), [(3, 4, 3), (2, 5, 4), (2, 3, 2), (1, 3, 3)])
def test_a_batch_of_few_classes_is_shared_by_the_ranks(ranks, classes, expected):
    resolved = Settings(data="folder:x", ranks=ranks).resolved(DataFacts(train_classes=classes, classes=2 * classes))
    assert resolved.classes_per_batch == expected
