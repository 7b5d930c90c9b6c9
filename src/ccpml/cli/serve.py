"""``ccpml serve``: answer searches of an index over HTTP, with a page."""

import argparse
import ipaddress
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ccpml.artifacts import expand_home, read_short_text
from ccpml.cli.common.libraries import EMBEDDING, announce_libraries
from ccpml.cli.common.models import find_model, load_model_of
from ccpml.cli.common.options import UsageError, add_store, check_index, find_location
from ccpml.cli.common.parser import Parser
from ccpml.cli.common.scan_options import add_scan_options, check_scan_options, use_scan
from ccpml.extras import require_extra
from ccpml.numbers import counted
from ccpml.progress import announce, print_note
from ccpml.system_errors import check_writable

if TYPE_CHECKING:
    import socket

    from ccpml.serving.service import ServiceSettings

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def run(arguments: list[str]) -> int:
    """Serve an index until Ctrl-C or another signal that ends it."""
    options = parse(arguments)
    token = _token(options.token_file)
    if not _is_loopback(options.host) and token is None:
        raise UsageError(
            f"--host: {options.host} can be reached from other machines, and no token is set; pass --token-file, or "
            "set CCPML_TOKEN"
        )
    if options.index is not None:
        check_index(Path(options.index))
    require_extra("serve", ["fastapi", "uvicorn", "python_multipart"], "serve")
    if options.feedback and options.index is not None:
        check_writable(Path(options.index) / "verdicts.csv")
    announce_libraries(needed=EMBEDDING)
    from ccpml.serving.service.listen import AddressError, listen

    try:
        listener = listen(options.host, options.port)  # before the model and most libraries, which take seconds to load
    except AddressError as error:
        raise UsageError(str(error)) from error
    with listener:
        _serve(options, listener, _settings(options, token))
    return 0


def _settings(options: argparse.Namespace, token: str | None) -> "ServiceSettings":
    from ccpml.serving.service import ServiceSettings

    hosts = tuple(options.allow_host or ())
    bounds = {name: getattr(options, name) for name in _BOUNDS if getattr(options, name) is not None}
    try:
        return ServiceSettings(
            token=token,
            writable=options.writable,
            feedback=options.feedback,
            hosts=(*_LOOPBACK, *hosts) if _is_loopback(options.host) or hosts else (),
            **bounds,
        )
    except ValueError as error:
        name, _, rest = str(error).partition(":")
        flag = {"token": "--token-file or CCPML_TOKEN", "hosts": "--allow-host"}.get(
            name, f"--{name.replace('_', '-')}"
        )
        raise UsageError(f"{flag}:{rest}") from error


def _serve(options: argparse.Namespace, listener: "socket.socket", settings: "ServiceSettings") -> None:
    from ccpml.serving import open_index
    from ccpml.serving.service import create_app

    location = find_location(options.index, options.store)
    with open_index(location) as index:
        path = find_model(index, options.run)
    from ccpml.serving.service.server import serve

    announce(f"loading {path}")
    run = load_model_of(options.index, path)
    with open_index(location, run) as index:
        use_scan(index, options)
        app = create_app(index, run, settings)
        if app.state.service.note:
            print_note(app.state.service.note)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"{index}: {counted(len(index), 'picture')} on {address} (Ctrl-C stops)", flush=True)
        serve(app, listener, settings)
    print("ccpml: stopped", file=sys.stderr)


_BOUNDS = {
    "rate": (float, "requests per second and client (default: 50, and no limit on this machine)"),
    "max_bytes": (int, "bytes of a request (default: 20 million)"),
    "max_pixels": (int, "pixels of a picture (default: 40 million)"),
    "max_pictures": (int, "pictures of one query (default: 8)"),
    "max_k": (int, "hits of a search (default: 1000)"),
    "max_connections": (int, "connections at a time (default: 512)"),
    "workers": (int, "threads that decode, embed and search (default: 2)"),
    "queue": (int, "requests that wait for a thread (default: 128)"),
    "timeout": (float, "seconds in which a client has to send a request (default: 30)"),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog="ccpml serve", description="Answer searches of an index over HTTP, with a page.")
    parser.add_argument("index", nargs="?", help="directory of the index; not with --store")
    add_store(parser)
    parser.add_argument("--run", type=Path, help="the index's model if it has moved: a run, or its .onnx file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 is any free one (default: 8000)")
    parser.add_argument(
        "--allow-host", action="append", metavar="NAME", help="a further name by which the service may be addressed"
    )
    parser.add_argument("--token-file", type=Path, help="file with a token that requests must carry (or $CCPML_TOKEN)")
    parser.add_argument("--writable", action="store_true", help="let clients add and remove pictures")
    parser.add_argument("--feedback", action="store_true", help="record verdicts about hits, with their pictures")
    for name, (kind, text) in _BOUNDS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    add_scan_options(parser)
    options = parser.parse_args(arguments)
    check_scan_options(options)
    if (options.index is None) == (options.store is None):
        raise UsageError("expected the directory of an index, or --store; see ccpml serve --help")
    if several := next((name for name in options.allow_host or () if "," in name), None):
        again = " ".join(f"--allow-host {name.strip()}" for name in several.split(",") if name.strip())
        raise UsageError(f"--allow-host: expected one name, got {several}; write {again}")
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port: expected 0 to 65535, got {options.port}")
    return options


def _token(file: Path | None) -> str | None:
    """Return the token from a file or the environment."""
    if file is None:
        return os.environ.get("CCPML_TOKEN", "").strip() or None
    try:
        token = read_short_text(expand_home(file)).strip()
    except (OSError, ValueError) as error:
        reason = (
            "not text in UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", str(error))
        )
        raise UsageError(f"--token-file: {file} cannot be read ({reason})") from error
    if not token:
        raise UsageError(f"--token-file: {file} is empty")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
