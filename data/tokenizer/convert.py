"""Converts a SentencePiece model to a tokenizer.json of `transformers`, with identical ids on any text.

    SentencePiece                                          tokenizer.json
    merges the pair whose merged piece has the best score  `merges`, in the order of those scores
    represents a space as U+2581                           keeps the space; encodes U+2581 as bytes, as we do
    encodes a character without a piece as bytes           `byte_fallback`
    never produces a control token from text               `split_special_tokens`: "</s>" in text is four characters

Neither side normalises, splits or adds anything. The output is JSON; no package is needed to write it.
"""

import json
from collections.abc import Iterator
from typing import Any

from data.tokenizer.sentencepiece_model import META_SYMBOL, Tokenizer

Json = dict[str, Any]
# Key of tokenizer_config.json: SHA-256 of the SentencePiece model that was converted.
SOURCE = "sentencepiece_sha256"


def tokenizer_files(tokenizer: Tokenizer, context_length: int) -> dict[str, str]:
    """Contents of tokenizer.json and tokenizer_config.json, by file name.

    context_length: longest context of the model, in tokens.

    Raises:
        ValueError: the model does not merge pairs in the order of its scores (a unigram model).
    """
    end, unknown = (_spelled(tokenizer, token) for token in (tokenizer.eos_id, _unknown(tokenizer)))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        # For llama.cpp, which reads tokenizer.model and this key.
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": end,
        "pad_token": end,
        "unk_token": unknown,
        "model_max_length": context_length,
        SOURCE: tokenizer.sha256,
    }
    return {
        "tokenizer.json": json.dumps(_backend(tokenizer, unknown), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=2),
    }


def _backend(tokenizer: Tokenizer, unknown: str) -> Json:
    special = [
        {
            "id": token,
            "content": _spelled(tokenizer, token),
            "special": True,
            "normalized": False,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
        }
        for token in sorted({tokenizer.eos_id, _unknown(tokenizer)})
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {_spelled(tokenizer, token): token for token in range(tokenizer.vocab_size)},
            "merges": [list(pair) for pair in _merges(tokenizer)],
        },
    }


def _merges(tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """Every pair of pieces whose concatenation is a piece, best score first."""
    texts = [token for token in range(tokenizer.vocab_size) if tokenizer.is_text(token)]
    scores = {_spelled(tokenizer, token): tokenizer.score(token) for token in texts}
    ranks = [score for piece, score in scores.items() if len(piece) > 1]
    if any(score != int(score) for score in ranks) or len(set(ranks)) != len(ranks):
        raise ValueError(
            f"tokenizer={tokenizer.path}: is no byte-pair model of SentencePiece (its scores are no ranks), and only "
            "these have an equivalent in tokenizer.json; train one with `ropewalk tokenizer`"
        )
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        for cut in range(1, len(piece)):
            pair = piece[:cut], piece[cut:]
            if pair[0] in scores and pair[1] in scores:
                yield pair


def _spelled(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.piece(token).replace(META_SYMBOL, " ")


def _unknown(tokenizer: Tokenizer) -> int:
    return next(token for token in range(tokenizer.vocab_size) if tokenizer.is_unknown(token))
