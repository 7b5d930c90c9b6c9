"""All tables of docs/benchmarks.md: ``python -m benchmarks``."""

import sys

from benchmarks import images, loader, method, retrieval

method.main()
print(flush=True)
sys.argv = sys.argv[:1]
retrieval.main()
for more in (images, loader):
    print(flush=True)
    more.main()
