"""`python -m data.manifest`: check or describe token files."""

import sys

from data.tokens.manifest import main

if __name__ == "__main__":
    sys.exit(main())
