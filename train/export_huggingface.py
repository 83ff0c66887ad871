"""`python -m train.export_huggingface`: a Hugging Face model's folder out of a checkpoint."""

import sys

from train.huggingface.export_model import main

if __name__ == "__main__":
    sys.exit(main())
