"""A worker process of data.prepare: pickled blocks on stdin, pickled results on stdout."""

import os
import pickle
import sys

from data.prepare.block_encoder import encode_block
from data.tokenizer.any_tokenizer import open_tokenizer


def main() -> None:
    """Read blocks from stdin and write results to stdout until stdin is closed."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    tokenizer_path, fields, bos_id = pickle.load(requests)
    tokenizer = open_tokenizer(tokenizer_path)
    while True:
        try:
            block = pickle.load(requests)
        except EOFError:
            return
        result = encode_block(block, tokenizer, fields, bos_id)
        try:
            pickle.dump(result, results, protocol=pickle.HIGHEST_PROTOCOL)
            results.flush()
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main()
