"""Run the command line with ``python -m greenopt``."""

import sys

from greenopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
