"""Finds what turns the text of prompts into the ids of a run: its tokenizer, or the closed vocabulary without one."""

from pathlib import Path

from data.config import DataConfig
from data.embedded_corpus import quickstart_files
from data.generated.prompts import Prompts
from data.prompts.encoder import ClosedVocabulary, Encoder, Remembering
from data.sources import Corpus, quickstart_folder
from data.tokenizer.any_tokenizer import open_tokenizer
from data.tokens.manifest import load


def open_encoder(
    config: DataConfig, directory: str | Path, vocab_size: int, corpus: Corpus
) -> Encoder:
    """Returns the encoder of a run's prompts.

    The tokenizer is data.tokenizer, or that of the embedded corpus, or the one beside the token files that their
    manifest names. A run without token files has the closed vocabulary, with the ids of its first source of prompts.

    Raises:
        ValueError: there is no tokenizer, it is not the one of the token files, or the model has too few ids.
    """
    if not config.has_files:
        return _closed(config, vocab_size, corpus)
    if config.tokenizer:
        path = Path(config.tokenizer)
    elif config.corpus:
        path = Path(quickstart_files(quickstart_folder(config, directory, vocab_size)).tokenizer)
    else:
        path = _beside(config)
    tokenizer = open_tokenizer(path)
    wanted = next(one.tokenizer_sha256 for one in corpus.described if not one.is_generated)
    if wanted and tokenizer.sha256 != wanted:
        raise ValueError(
            f"data.tokenizer={path}: its SHA-256 is {tokenizer.sha256[:12]}, the token files were made with"
            f" {wanted[:12]}; give the one that they were made with"
        )
    return Remembering(tokenizer.encode, tokenizer.vocab_size, tokenizer.sha256)


def _beside(config: DataConfig) -> Path:
    """Returns the tokenizer that the manifest of the first token files names, if it lies beside them."""
    prefix = next(iter([*config.files.values(), config.heldout]))
    name = str(load(prefix)["tokenizer"]["file"])
    path = Path(prefix).parent / name
    if not name or not path.is_file():
        raise ValueError(
            f"data.tokenizer: prompts are text, and the tokenizer {name or 'of the token files'} is not beside"
            f" {prefix}; give data.tokenizer=PATH"
        )
    return path


def _closed(config: DataConfig, vocab_size: int, corpus: Corpus) -> ClosedVocabulary:
    made = (one for one in config.generated.values() if isinstance(one, Prompts))
    settings = next(made, Prompts(task="prompts"))
    first = corpus.sources[0]
    encoder = ClosedVocabulary(settings.symbol_ids(first.eos_id, first.bos_id))
    if encoder.vocab_size > vocab_size:
        raise ValueError(
            f"model.vocab_size={vocab_size}: prompts without a tokenizer have ids up to {encoder.vocab_size - 1} (the"
            f" closed vocabulary); give model.vocab_size={encoder.vocab_size} or more"
        )
    return encoder
