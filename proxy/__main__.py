"""``python -m proxy`` is the same program as ``outrider``."""

import sys

from proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
