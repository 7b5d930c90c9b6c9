"""``ccpml serve``: answer searches of an index over HTTP, with a page."""

import argparse
import ipaddress
import os
import sys
from pathlib import Path

from ccpml.cli.options import Parser, UsageError, check_run
from ccpml.progress import announce


def run(arguments: list[str]) -> int:
    """Serve an index until Ctrl-C or SIGTERM."""
    options = parse(arguments)
    token = _token(options.token_file)
    if not _is_loopback(options.host) and token is None:
        raise UsageError(
            f"--host: {options.host} can be reached from other machines, and no token is set; pass --token-file, or "
            "set CCPML_TOKEN"
        )
    if not (options.index / "index.sqlite").is_file():
        raise UsageError(f"{options.index}: not an index; `ccpml index <run> <folder> -o {options.index}` makes one")
    from ccpml.serving.service.server import bind, serve

    with bind(options.host, options.port) as listener:  # before the libraries, which take seconds to load
        announce("loading libraries")
        from ccpml.serving.index import Index
        from ccpml.serving.service import ServiceSettings, create_app

        settings = ServiceSettings(token=token, writable=options.writable, feedback=options.feedback)
        with Index.open(options.index) as index:
            path = check_run(options.run or index.model_path)
        from ccpml.runs.inference import load_run

        embedder = load_run(path)
        announce(f"loading {path}")
        with Index.open(options.index, embedder) as index:
            app = create_app(index, embedder, settings)
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"{len(index):,} pictures on http://{shown}:{port} (Ctrl-C stops)", flush=True)
            serve(app, listener, settings)
    print("stopped", file=sys.stderr)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog="ccpml serve", description="Answer searches of an index over HTTP, with a page.")
    parser.add_argument("index", type=Path, help="directory of the index")
    parser.add_argument("--run", type=Path, help="the run that the index was made with, if it has moved")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 is any free one (default: 8000)")
    parser.add_argument("--token-file", type=Path, help="file with a token that requests must carry (or $CCPML_TOKEN)")
    parser.add_argument("--writable", action="store_true", help="let clients add and remove pictures")
    parser.add_argument("--feedback", action="store_true", help="record verdicts about hits in the index")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port: expected 0 to 65535, got {options.port}")
    return options


def _token(file: Path | None) -> str | None:
    """Return the token from a file or the environment."""
    if file is None:
        return os.environ.get("CCPML_TOKEN", "").strip() or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--token-file: {file} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error
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
