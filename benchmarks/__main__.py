"""Print all tables of docs/benchmarks.md: ``python -m benchmarks``."""

import sys

from benchmarks import backbones, images, loader, method, retrieval, scaling, search, step

sys.argv = sys.argv[:1]
for part in (method, step, backbones, retrieval, images, loader, scaling, search):
    part.main()
    print(flush=True)
