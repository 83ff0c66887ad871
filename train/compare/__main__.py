"""`python -m train.compare A B`: says at which step, and in which tensor, two runs part."""

# ruff: noqa: E402  (refuse_strangers checks the packages before they are imported)
import sys

from train.health.checkout import refuse_strangers

refuse_strangers()

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("train.compare: stopped")

from train.compare.command import main

if __name__ == "__main__":
    sys.exit(run(main))
