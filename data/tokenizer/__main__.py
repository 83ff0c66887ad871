"""`python -m data.tokenizer`: train a SentencePiece model."""

import sys

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("data.tokenizer: stopped; nothing was written")

from data.tokenizer.training import main

if __name__ == "__main__":
    sys.exit(run(main))
