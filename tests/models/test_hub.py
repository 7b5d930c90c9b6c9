import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from ccpml.backbones import BACKBONES
from ccpml.models import ResNet50, create_model, hub, imagenet_weights

CONTENT = bytes(range(256)) * 2000
BEGINS = hashlib.sha256(CONTENT).hexdigest()[:8]
NAME = f"weights-{BEGINS}.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; no proxy between us and the server of the test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], str]]:
    """Start a server that answers with a function; give the address of the file."""
    servers = []

    def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/some/{NAME}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(request: BaseHTTPRequestHandler, body: bytes = CONTENT, length: int | None = None) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(length or len(body)))
    request.end_headers()
    request.wfile.write(body)


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/some/{NAME}"


def put(cache: Path, content: bytes) -> Path:
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(content)
    return cache / NAME


def test_a_file_in_the_cache_is_taken_without_a_network(cache: Path) -> None:
    path = put(cache, CONTENT)
    assert imagenet_weights("bn_inception", closed_port()) == path


def test_a_missing_file_is_downloaded_whole(cache: Path, serve, capsys: pytest.CaptureFixture[str]) -> None:
    url = serve(send)
    path = imagenet_weights("resnet50", url)
    assert path == cache / NAME
    assert path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    output = capsys.readouterr()
    assert output.err == f"downloading {url} to {path}\n"
    assert not output.out
    assert imagenet_weights("resnet50", closed_port()) == path  # it is there now


def test_a_damaged_file_is_replaced(cache: Path, serve) -> None:
    path = put(cache, CONTENT[:-1])
    assert imagenet_weights("resnet50", serve(send)).read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]


def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(cache: Path) -> None:
    url = closed_port()
    with pytest.raises(ValueError, match="weights: ") as caught:
        imagenet_weights("resnet50", url)
    message = str(caught.value)
    for part in (f"{url} cannot be downloaded to {cache / NAME} (", "refused", "put it there"):
        assert part in message
    assert "\n" not in message
    assert not list(cache.iterdir())


def test_without_a_network_a_damaged_file_is_named_and_kept(cache: Path) -> None:
    path = put(cache, b"half")
    with pytest.raises(ValueError, match=rf"{NAME} is damaged \(its SHA-256 does not begin with {BEGINS}\), and http"):
        imagenet_weights("resnet50", closed_port())
    assert path.read_bytes() == b"half"


def not_found(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def another_file(request: BaseHTTPRequestHandler) -> None:
    send(request, b"<html>Please log in</html>")


def broken_off(request: BaseHTTPRequestHandler) -> None:
    send(request, CONTENT[: len(CONTENT) // 2], len(CONTENT))


def hung_up(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def silent(request: BaseHTTPRequestHandler) -> None:
    send(request, CONTENT[:1000], len(CONTENT))
    request.wfile.flush()
    time.sleep(1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (not_found, "Not Found"),
        (another_file, "invalid hash value"),
        (broken_off, "invalid hash value"),
        (hung_up, "closed connection"),
        (silent, "timed out"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    cache: Path, serve, monkeypatch: pytest.MonkeyPatch, answer: Callable[[BaseHTTPRequestHandler], None], reason: str
) -> None:
    monkeypatch.setattr(hub, "_PATIENCE", 0.3)
    with pytest.raises(ValueError, match=rf"cannot be downloaded to .*{NAME} \(.*{reason}"):
        imagenet_weights("resnet50", serve(answer))
    assert not list(cache.iterdir())
    assert socket.getdefaulttimeout() is None


def test_an_interrupted_download_leaves_nothing(cache: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while bytes come in."""
    monkeypatch.setattr(torch.hub, "READ_DATA_CHUNK", 1000)
    url = serve(send)
    updates = []

    class Bar:
        def __init__(self, **_: object) -> None:
            pass

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            updates.append(count)
            if len(updates) == 3:
                assert len(list(cache.iterdir())) == 1  # the part, under another name
                assert not (cache / NAME).exists()
                raise KeyboardInterrupt

    monkeypatch.setattr(torch.hub, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        imagenet_weights("resnet50", url)
    assert not list(cache.iterdir())


def test_a_cache_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=rf"cannot be downloaded to {re.escape(str(cache))}"):
        imagenet_weights("resnet50", closed_port())


def test_a_folder_in_the_files_place_is_named(cache: Path) -> None:
    (cache / NAME).mkdir(parents=True)
    with pytest.raises(ValueError, match="Is a directory"):
        imagenet_weights("resnet50", closed_port())


def test_a_home_that_is_given_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", "~/elsewhere")
    path = put(tmp_path / "elsewhere" / "hub" / "checkpoints", CONTENT)
    assert imagenet_weights("resnet50", closed_port()) == path


@pytest.mark.parametrize("backbone", ["small_conv", "timm:resnet50"])
def test_others_have_none(backbone: str) -> None:
    with pytest.raises(ValueError, match=f"there are no ImageNet weights of {backbone}; give a file, or none"):
        imagenet_weights(backbone)


def test_the_published_addresses() -> None:
    assert {name: entry.imagenet for name, entry in BACKBONES.items() if entry.imagenet} == {
        "bn_inception": "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
        "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "timm": "timm",
    }


def test_a_model_starts_from_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way, with a file that names its own checksum."""
    published = ResNet50().state_dict() | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    cache.mkdir(parents=True)
    torch.save(published, cache / "new.pth")
    digest = hashlib.sha256((cache / "new.pth").read_bytes()).hexdigest()
    (cache / "new.pth").rename(cache / f"resnet50-{digest[:8]}.pth")
    address = closed_port().replace(NAME, f"resnet50-{digest[:8]}.pth")
    monkeypatch.setitem(BACKBONES, "resnet50", replace(BACKBONES["resnet50"], imagenet=address))
    model = create_model("resnet50", weights="imagenet", freeze_batchnorm=True)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, published[name]), name
