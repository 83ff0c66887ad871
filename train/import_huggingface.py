"""`python -m train.import_huggingface`: imports the folder of a Hugging Face model as a checkpoint."""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import sys

from train.health.checkout import refuse_strangers

refuse_strangers()

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("train.import_huggingface: stopped; nothing was written")

from train.huggingface.import_model import main

if __name__ == "__main__":
    sys.exit(run(main))
