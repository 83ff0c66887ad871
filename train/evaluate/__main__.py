"""`python -m train.evaluate --checkpoint PATH ...`, alone or under torchrun: evaluates checkpoints and models."""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import sys

from train.health.checkout import refuse_strangers

refuse_strangers()

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("train.evaluate: stopped; tasks that were done are in the output folder")

from train.evaluate.command import main

if __name__ == "__main__":
    sys.exit(run(main))
