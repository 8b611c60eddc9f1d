"""``python -m fullconv``."""

from __future__ import annotations

import sys

from fullconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
