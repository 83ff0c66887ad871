"""`python -m train.report RUN_FOLDER`: write its page again."""

import sys

from train.report.page import main

if __name__ == "__main__":
    sys.exit(main())
