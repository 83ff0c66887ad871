"""`python -m train.import_huggingface`: a checkpoint out of a Hugging Face model's folder."""

import sys

from train.huggingface.import_model import main

if __name__ == "__main__":
    sys.exit(main())
