"""Upload to the hub, with its calls replaced."""

from pathlib import Path

import pytest

from ccpml.exporting.push import PushError, check_repository, push

hub = pytest.importorskip("huggingface_hub")


@pytest.mark.parametrize("name", ["me/mugs", "an-org/Mugs_v1.2", "a/b"])
def test_names_of_repositories(name: str) -> None:
    check_repository(name)


@pytest.mark.parametrize("name", ["mugs", "me/", "/mugs", "a/b/c", "me/my mugs", "me/-mugs", "me/a--b", "../mugs", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^expected user/name"):
        check_repository(name)


def test_the_folder_is_uploaded_to_a_private_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def record(name: str, result: object) -> None:
        def call(_: object, *args: object, **options: object) -> object:
            calls.append((name, args, options))
            return result

        monkeypatch.setattr(hub.HfApi, name, call)

    record("create_repo", None)
    record("upload_folder", "https://huggingface.co/me/mugs/commit/1")
    assert push(tmp_path, "me/mugs") == "https://huggingface.co/me/mugs/commit/1"
    (first, args, options), (second, _, uploaded) = calls
    assert (first, args, options) == ("create_repo", ("me/mugs",), {"private": True, "exist_ok": True})
    assert second == "upload_folder"
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("me/mugs", tmp_path)


def test_an_error_of_the_network_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(hub.HfApi, "create_repo", fail)
    with pytest.raises(PushError, match=r"^me/mugs: not uploaded \(no route to host\); the model is in ") as raised:
        push(tmp_path, "me/mugs")
    assert f"`hf upload me/mugs {tmp_path}` uploads it" in str(raised.value)
