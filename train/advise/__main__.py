"""`python -m train.advise WHAT ...`: what published formulas say about a model before it is trained on longer texts."""

# ruff: noqa: E402  (what is set or checked before other imports)
import os
import sys

# The products of matrices here are small: several threads of BLAS would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from train.health.checkout import refuse_strangers

refuse_strangers()

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("train.advise: stopped; nothing was written")

from train.advise.command import main

if __name__ == "__main__":
    sys.exit(run(main))
