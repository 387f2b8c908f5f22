"""`python -m actrec`: the command line, where the script `actrec` is not on the path."""

import sys

from actrec.cli import main

if __name__ == "__main__":
    sys.exit(main())
