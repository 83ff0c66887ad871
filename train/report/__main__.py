"""`python -m train.report RUN [RUN ...]`: writes the page of a run again, or a page that compares several."""

# ruff: noqa: E402  (refuse_strangers checks the packages before they are imported)
import sys

from train.health.checkout import refuse_strangers

refuse_strangers()

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("train.report: stopped; the page is as it was")

from train.report.command import main

if __name__ == "__main__":
    sys.exit(run(main))
