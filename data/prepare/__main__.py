"""`python -m data.prepare`: documents to token files."""

import sys

from data.prepare.job import main

if __name__ == "__main__":
    sys.exit(main())
