"""``python -m unpinned`` is the command ``unpinned``."""

import sys

from unpinned.cli import main

if __name__ == "__main__":
    sys.exit(main())
