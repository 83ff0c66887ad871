"""`python -m train.export_huggingface`: exports a checkpoint as the folder of a Hugging Face model."""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import sys

from train.health.checkout import refuse_strangers

refuse_strangers()

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("train.export_huggingface: stopped; nothing was written")

from train.huggingface.export_model import main

if __name__ == "__main__":
    sys.exit(run(main))
