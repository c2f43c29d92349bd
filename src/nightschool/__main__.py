"""`python -m nightschool` is `nightschool`."""

import sys

from nightschool.cli import main

if __name__ == "__main__":
    sys.exit(main())
