"""A run says what is true: its settings and the splits of its classes are those that it was started with."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ccpml.data import load_folder
from ccpml.data.class_records import ClassRecord, DataChangedError, MixedDataError, class_records
from ccpml.files import write_json
from ccpml.report import write_report
from ccpml.runs.directory import RunDirectory, RunRecord
from ccpml.runs.images import load_images, read_facts
from ccpml.runs.inference import SeenClassesError, embed_run, evaluate_run, load_run, write_embeddings
from ccpml.runs.record import seen_by_weights
from ccpml.runs.train import resume, train
from tests.data.image_files import touch
from tests.toy import quick_settings, toy_folder

TESTED = [f"group{n // 4}/class{n:02d}" for n in range(6, 12)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    train(quick_settings(data=f"folder:{toy_folder(root / 'toy')}", max_steps=2), root / "run", progress=False)
    return root


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> tuple[RunDirectory, Path]:
    """Return a copy of the run, and of its data, which have moved with it."""
    shutil.copytree(trained, tmp_path / "copy")
    run, folder = RunDirectory(tmp_path / "copy" / "run"), tmp_path / "copy" / "toy"
    for file in (run.settings_file, run.record_file):
        file.write_text(file.read_text().replace(str(trained / "toy"), str(folder)))
    return run, folder


def test_the_split_of_each_class_is_stored_by_name(trained: Path) -> None:
    record = RunDirectory(trained / "run").record()
    assert [name for name, split in record.split_of_class.items() if split == "test"] == TESTED
    assert set(record.split_of_class.values()) == {"train", "validation", "test"}
    assert record.settings == RunDirectory(trained / "run").settings().flat()


def test_a_class_that_was_trained_on_is_never_scored_as_unseen(
    copied: tuple[RunDirectory, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = copied
    whole = evaluate_run(run.path)
    assert evaluate_run(run.path, f"folder:{folder}").scores.as_dict() == pytest.approx(whole.scores.as_dict())
    assert "was trained on or chosen by 6 classes (group0/class00, " in capsys.readouterr().err
    assert evaluate_run(run.path, f"folder:{folder}", all_classes=True).size == "12 classes, 60 images"
    assert "class05); scored too" in capsys.readouterr().err
    for name in TESTED[-2:]:  # by halves, a class of the training would now be in the second one
        shutil.rmtree(folder / name)
    (folder / "new").mkdir()
    next((folder / TESTED[0]).iterdir()).rename(folder / "new" / "1.png")
    changes = (
        "2 classes (group2/class10, group2/class11) missing, 1 class (new) new, 1 class (group1/class06) with other"
    )
    with pytest.raises(DataChangedError) as caught:
        evaluate_run(run.path)
    assert changes in str(caught.value)
    result = evaluate_run(run.path, f"folder:{folder}")
    assert result.size == "5 classes, 20 images"
    assert changes in capsys.readouterr().err
    embed_run(run.path, f"folder:{folder}", run.path / "x.npz")
    assert changes in capsys.readouterr().err
    assert changes in write_report(run).read_text(encoding="utf-8")
    run.scores_file.unlink()
    with pytest.raises(DataChangedError, match=r"2 classes \(group2/class10, group2/class11\) missing"):
        resume(run.path, progress=False)
    record = run.record()
    seen = {name.replace("group0/", ""): entry._replace(split="train") for name, entry in record.classes.items()}
    RunRecord(record.settings, seen).write(run.record_file)
    with pytest.raises(SeenClassesError, match=r"not trained on, got 4 classes \(class00, class01, .* that it was"):
        evaluate_run(run.path, f"folder:{folder / 'group0'}")


def test_data_that_cannot_be_read_here_are_not_to_be_restored(
    copied: tuple[RunDirectory, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = copied
    monkeypatch.setattr("ccpml.data.images.formats.pillow_formats", lambda: ("PNG",))  # neither HEIC nor AVIF
    image = next((folder / TESTED[0]).iterdir())
    image.rename(image.with_suffix(".heic"))
    expected = r"with other images.*; 1 file cannot be read here: pip install pi-heif, or restore them, or start"
    with pytest.raises(DataChangedError, match=expected):
        evaluate_run(run.path)
    image.with_suffix(".heic").rename(image)
    (folder / TESTED[1] / "9.heic").write_bytes(b"")  # in a class that has not changed
    evaluate_run(run.path)
    image.rename(image.with_name("9.png"))
    with pytest.raises(DataChangedError, match=r"with other images.*; restore them, or start a new run"):
        evaluate_run(run.path)


def test_a_class_that_was_trained_on_is_known_by_its_files(
    copied: tuple[RunDirectory, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = copied
    with pytest.raises(SeenClassesError, match=r"not trained on, got 4 classes \(class00, class01, .* that it was"):
        evaluate_run(run.path, f"folder:{folder / 'group0'}")
    (tmp_path / "link").symlink_to(folder / "group0" / "class00")
    names = ["link", *(str(folder / name) for name in TESTED[:2])]
    rows = [f"{path},{label}" for label, name in enumerate(names) for path in sorted((tmp_path / name).iterdir())]
    (tmp_path / "other.csv").write_text("\n".join(["path,label", *rows]))
    assert evaluate_run(run.path, f"csv:{tmp_path / 'other.csv'}").size == "2 classes, 10 images"
    assert "was trained on or chosen by 1 class (0); left out" in capsys.readouterr().err
    images = sorted(str(path) for path in (folder / TESTED[0]).iterdir())
    for name, role in (("one", ""), ("queries", "query"), ("gallery", "gallery")):
        rows = [f"{path},new,{role}" for path in images]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label,role", *rows]))
    evaluate_run(run.path, f"csv:{tmp_path / 'one.csv'}")
    assert "one.csv: 1 class, of which every answer is right: scores need at least two" in capsys.readouterr().err
    for name in ("queries", "gallery"):
        with pytest.raises(ValueError, match=rf"{name}.csv: expected a class with both query and gallery images"):
            evaluate_run(run.path, f"csv:{tmp_path / f'{name}.csv'}")
    folder.rename(tmp_path / "elsewhere")  # where the run's data are gone, only names are compared
    assert evaluate_run(run.path, f"folder:{tmp_path / 'elsewhere' / 'group0'}").size == "4 classes, 20 images"


def test_a_class_that_was_trained_on_is_known_by_copies_of_its_files(
    copied: tuple[RunDirectory, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = copied
    for number, name in enumerate(["group0/class00", "group0/class01", *TESTED]):
        shutil.copytree(folder / name, tmp_path / "other" / f"thing{number}")
    whole = evaluate_run(run.path)
    trained = sorted((folder / "group0" / "class02").iterdir())
    for place in ("one", "two"):  # copies of two pictures of five in a class of the test
        shutil.copy(trained[place == "two"], tmp_path / "other" / "thing2" / f"{place}.png")
    assert evaluate_run(run.path, f"folder:{tmp_path / 'other'}").size == "6 classes, 32 images"
    assert "was trained on or chosen by 2 classes (thing0, thing1); left out" in capsys.readouterr().err
    for place in ("one", "two"):
        (tmp_path / "other" / "thing2" / f"{place}.png").unlink()
    found = evaluate_run(run.path, f"folder:{tmp_path / 'other'}")
    assert found.scores.as_dict() == pytest.approx(whole.scores.as_dict())


def test_unreadable_images_move_no_class_to_another_split(tmp_path: Path) -> None:
    folder = toy_folder(tmp_path / "toy", classes=16)
    settings = quick_settings(data=f"folder:{folder}", skip_bad_images=True).resolved()
    before = load_images(settings, progress=False)
    for image in (folder / "group0" / "class01").iterdir():  # a whole class
        image.write_bytes(b"no image")
    after = load_images(settings, progress=False)
    assert after.splits.test.class_names == before.splits.test.class_names
    assert {*before.splits.train.class_names} - {*after.splits.train.class_names} | (
        {*before.splits.validation.class_names} - {*after.splits.validation.class_names}
    ) == {"group0/class01"}
    assert after.classes == before.classes


def test_a_record_of_another_run_is_named_with_all_differences() -> None:
    record = RunRecord({"fold": 1, "seed": 2}, {"a": ClassRecord("train", 1, "")})
    record.check_started_with({"fold": 1, "seed": 2}, Path("record.json"))
    with pytest.raises(
        ValueError, match=r"^record\.json: of another run.*\(fold: was 0, is 1 and seed: was 3, is 2\); "
    ):
        record.check_started_with({"fold": 0, "seed": 3}, Path("record.json"))


def test_edited_settings_are_refused(copied: tuple[RunDirectory, Path]) -> None:
    run, _ = copied
    settings = yaml.safe_load(run.settings_file.read_text())
    run.settings_file.write_text(yaml.safe_dump({**settings, "threads": 2, "device": "auto"}))
    load_run(run.path)  # where and how fast it is trained may be changed
    run.settings_file.write_text(yaml.safe_dump({**settings, "lr": 0.5}))
    for call in (load_run, resume, evaluate_run):
        if call is resume:
            run.scores_file.unlink()
        with pytest.raises(ValueError, match=r"experiment\.yaml: edited .* \(lr: was 0\.001, is 0\.5\); undo it"):
            call(run.path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"embedding_dim": "twelve"}, "embedding_dim: expected int, got 'twelve'"),
        ({"lr": [1]}, r"lr: expected float or null, got \[1\]"),
        ({"projections": {"patience": "x"}}, "projections.patience: expected int, got 'x'"),
        ({"projections": 3}, "projections: expected options by name, got 3"),
        ({"seed": None}, "seed: expected int, got None"),
    ],
)
def test_settings_of_a_wrong_type_are_named(copied: tuple[RunDirectory, Path], edit: dict, message: str) -> None:
    run, _ = copied
    run.settings_file.write_text(yaml.safe_dump({**yaml.safe_load(run.settings_file.read_text()), **edit}))
    with pytest.raises(ValueError, match=rf"experiment\.yaml: not the settings of a run: {message}; restore it"):
        load_run(run.path)


def test_lost_weights_say_how_to_get_them_again(copied: tuple[RunDirectory, Path]) -> None:
    run, _ = copied
    weights, scores = run.weights_file.read_bytes(), run.scores()
    run.weights_file.unlink()
    with pytest.raises(
        ValueError, match=r"best\.safetensors: not found; remove .*scores\.json and .*last\.ckpt, and resume"
    ):
        evaluate_run(run.path)
    run.scores_file.unlink()
    events = sorted((run.path / "tensorboard").iterdir())
    with pytest.raises(ValueError, match=r"best\.safetensors: not found; remove .*/last\.ckpt, and resume the run"):
        resume(run.path, progress=False)
    assert sorted((run.path / "tensorboard").iterdir()) == events
    run.state_file.unlink()
    again = resume(run.path, progress=False).scores()
    for each in (again, scores):
        del each["embeddings_digests"]  # their files hold the paths of the images, which are copies here
    assert again == scores
    assert run.weights_file.read_bytes() == weights


def test_a_run_whose_training_state_is_lost_says_that_it_starts_again(
    copied: tuple[RunDirectory, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = copied
    weights = run.weights_file.read_bytes()
    for lost in (run.state_file, run.weights_file.parent):
        run.scores_file.unlink()
        lost.unlink() if lost.is_file() else shutil.rmtree(lost)
        resume(run.path, progress=False)
        note = f"note: {run.state_file}: not found, so the run starts again from the beginning\n"
        assert capsys.readouterr().err.count(note) == 1
        assert run.weights_file.read_bytes() == weights
    run.scores_file.unlink()
    resume(run.path, progress=False)
    assert "starts again" not in capsys.readouterr().err
    run.scores_file.unlink()  # stopped before its first validation, after its start was scored: no state was there
    run.state_file.unlink()
    names, *_ = run.metrics_file.read_text().splitlines()
    columns = names.split(",")
    start = {"step": "0", "map_at_r": "0.5"}
    run.metrics_file.write_text(f"{names}\n{','.join(start.get(name, '') for name in columns)}\n")
    resume(run.path, progress=False)
    assert "starts again" not in capsys.readouterr().err


def test_files_of_another_run_are_refused(copied: tuple[RunDirectory, Path], trained: Path, tmp_path: Path) -> None:
    run, folder = copied
    other = train(quick_settings(data=f"folder:{folder}", lr=0.1, max_steps=2), tmp_path / "other", progress=False)
    shutil.copy(other.weights_file, run.weights_file)
    with pytest.raises(ValueError, match=r"best\.safetensors: weights of another run; remove"):
        evaluate_run(run.path)
    shutil.copy(trained / "run" / "checkpoints" / "best.safetensors", run.weights_file)
    run.scores_file.unlink()
    shutil.copy(other.state_file, run.state_file)
    with pytest.raises(ValueError, match=r"last\.ckpt: training state of another run; remove it, and"):
        resume(run.path, progress=False)
    for content in ({"a": 1}, [1]):
        torch.save(content, run.state_file)
        with pytest.raises(ValueError, match=r"last\.ckpt: not the training state of a run; remove it"):
            resume(run.path, progress=False)


def test_a_lost_digest_is_damage_unless_the_file_is_older_which_is_noted(
    copied: tuple[RunDirectory, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = copied
    for file, read in ((run.record_file, run.record), (run.scores_file, run.scores)):
        whole = file.read_text()
        assert whole.count('"digest"') == 1
        file.write_text(whole.replace('"digest"', '"eigest"'))  # one bit
        with pytest.raises(ValueError, match=rf"{file.name}: damaged \(wrong digest\)"):
            read()
        file.write_text(whole)
    scores = run.scores()
    assert not capsys.readouterr().err
    without = ("record_digest", "metrics_digest")
    write_json(run.scores_file, {name: value for name, value in scores.items() if name not in without})
    assert run.scores()["test"] == scores["test"]
    run.scores()
    note = f"note: {run.scores_file}: written by an older ccpml; whether it was changed since, or is of another run"
    assert capsys.readouterr().err.count(note) == 1


def test_data_that_are_not_those_of_other_runs_are_refused_before_anything_is_written(
    trained: Path, tmp_path: Path
) -> None:
    settings = quick_settings(data=f"folder:{shutil.copytree(trained / 'toy', tmp_path / 'toy')}")
    digest = read_facts(quick_settings(data=f"folder:{trained / 'toy'}")).digest
    assert read_facts(settings).digest == digest  # data may lie elsewhere
    (tmp_path / "toy" / "group0" / "class00" / "0.png").rename(tmp_path / "toy" / "group0" / "class00" / "9.png")
    with pytest.raises(MixedDataError, match="expected the classes and images of the other runs, got some that were"):
        train(settings, tmp_path / "run", progress=False, data_digest=digest)
    assert not (tmp_path / "run").exists()


def test_embeddings_that_are_not_finite_are_not_written(trained: Path, tmp_path: Path) -> None:
    table = load_images(RunDirectory(trained / "run").settings(), progress=False).splits.test
    embeddings = torch.zeros(len(table), 3)
    for bad in (torch.nan, torch.inf):
        embeddings[4, 1] = bad
        with pytest.raises(ValueError, match=r"not written: expected finite .* 1 of 30 images, such as .*4\.png"):
            write_embeddings(tmp_path / "x.npz", embeddings, table)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"settings": {}, "classes": {}}', '{"settings": {}, "classes": {"a": [1]}}']
)
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ValueError, match=r"record\.json: (damaged|not the record of a run).*; restore it from a copy"):
        RunDirectory(tmp_path).record()
    write_json(tmp_path / "record.json", {"settings": {"lr": 1}, "classes": {"a": ["train", 1, "0"]}})
    assert RunDirectory(tmp_path).record().split_of_class == {"a": "train"}


def test_names_of_classes_in_another_form_of_unicode_are_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "cafe\u0301/1.png", "tea/1.png")
    source = load_folder(tmp_path)
    found = class_records(source, {})
    old = RunRecord({}, {"cafe\u0301": found["caf\u00e9"], "tea": found["tea"]})  # as an older ccpml has recorded it
    assert not old.changes(source)
    assert old.split_of_class == {"caf\u00e9": "test", "tea": "test"}


def test_classes_that_initial_weights_were_trained_on_are_noted(trained: Path, tmp_path: Path) -> None:
    weights = str(trained / "run" / "checkpoints" / "best.safetensors")
    before = RunDirectory(trained / "run").record().split_of_class
    trained_on = next(name for name, split in before.items() if split == "train")
    chosen_by = next(name for name, split in before.items() if split == "validation")
    tested = next(name for name, split in before.items() if split == "test")

    def note(**splits: list[str]) -> str:
        classes = {name: ClassRecord(split, 2, "") for split, names in splits.items() for name in names}
        return seen_by_weights(weights, classes)

    assert note(train=[trained_on], validation=[chosen_by], test=[tested]) == ""
    begin = (
        f"{trained / 'run'}, whose weights it starts from, was trained on or chosen by classes of the same names as "
    )
    expected = f"1 class ({chosen_by}) for test and 1 class ({trained_on}) for validation: {{}} these are not unseen"
    assert note(test=[chosen_by, tested], validation=[trained_on]) == begin + expected.format("if they are the same,")
    same = RunDirectory(trained / "run").record().classes
    known = {
        name: same[name]._replace(split=split) for name, split in ((chosen_by, "test"), (trained_on, "validation"))
    }
    assert seen_by_weights(weights, known).endswith("for validation: these are not unseen")
    assert seen_by_weights("imagenet", {}) == seen_by_weights(str(tmp_path / "a.safetensors"), {}) == ""


def test_a_run_from_weights_that_have_seen_its_test_classes_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(trained / "run" / "checkpoints" / "best.safetensors")
    settings = quick_settings(data=f"folder:{trained / 'toy'}", max_steps=1, weights=weights)
    same = train(settings, tmp_path / "same", test=False)
    assert not any("starts from" in text for text in same.choices()["notes"])
    capsys.readouterr()
    other = train(settings.changed({"test_classes": "group0/*"}), tmp_path / "other", test=False)
    assert "whose weights it starts from, was trained on or chosen by classes" in capsys.readouterr().err
    assert "4 classes (group0/class00, " in other.choices()["notes"][-1]
