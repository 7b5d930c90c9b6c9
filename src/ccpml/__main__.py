"""``python -m ccpml``."""

import sys

from ccpml.cli import main

if __name__ == "__main__":
    sys.exit(main())
