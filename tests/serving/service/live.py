"""A service in a process of its own: `python -m tests.serving.service.live INDEX SETTINGS` serves it until a signal."""

import json
import sys
from pathlib import Path

from ccpml.serving import Index
from ccpml.serving.service import ServiceSettings, create_app
from ccpml.serving.service.listen import listen
from ccpml.serving.service.server import serve
from tests.serving.embedders import ColorEmbedder

if __name__ == "__main__":
    settings = ServiceSettings(**json.loads(sys.argv[2]))
    embedder = ColorEmbedder()
    with listen("127.0.0.1", 0) as listener, Index.open(Path(sys.argv[1]), embedder) as index:
        print(listener.getsockname()[1], flush=True)
        serve(create_app(index, embedder, settings), listener, settings)
    print("stopped", flush=True)
