"""`python -m train.report RUN [RUN ...]`: write the page of a run again, or one that compares several."""

import sys

from train.report.command import main

if __name__ == "__main__":
    sys.exit(main())
