"""`python -m data.tokenizer`: train a SentencePiece model."""

import sys

from data.tokenizer.training import main

if __name__ == "__main__":
    sys.exit(main())
