"""Finds what turns the text of prompts into the ids of a run: its tokenizer, or the closed vocabulary without one."""

from pathlib import Path

from data.config import DataConfig
from data.embedded_corpus import quickstart_files, quickstart_folder
from data.generated.prompts import Prompts
from data.prompts.encoder import ClosedVocabulary, Encoder, Remembering
from data.tokenizer.any_tokenizer import open_tokenizer
from data.tokens.declared import Declared
from data.tokens.manifest import load


def open_encoder(
    config: DataConfig, directory: str | Path, vocab_size: int, source: Declared
) -> Encoder:
    """Returns the encoder of a run's prompts. source: one of the run, of token files if it has any.

    Raises:
        ValueError: there is no tokenizer, it is not the one of the token files, or the model has too few ids.
    """
    if config.has_files:
        return open_tokenizer_of(config, directory, vocab_size, source.tokenizer_sha256)
    return closed_encoder(config, vocab_size, source.eos_id, source.bos_id)


def closed_encoder(
    config: DataConfig, vocab_size: int, eos_id: int, bos_id: int | None
) -> ClosedVocabulary:
    """Returns the closed vocabulary of a run without token files, with the ids of its first source of prompts.

    Raises:
        ValueError: the model has too few ids.
    """
    made = (one for one in config.generated.values() if isinstance(one, Prompts))
    settings = next(made, Prompts(task="prompts"))
    encoder = ClosedVocabulary(settings.symbol_ids(eos_id, bos_id))
    if encoder.vocab_size > vocab_size:
        raise ValueError(
            f"model.vocab_size={vocab_size}: prompts without a tokenizer have ids up to {encoder.vocab_size - 1} (the"
            f" closed vocabulary); give model.vocab_size={encoder.vocab_size} or more"
        )
    return encoder


def open_tokenizer_of(
    config: DataConfig, directory: str | Path, vocab_size: int, sha256: str
) -> Encoder:
    """Returns the tokenizer of the token files, which has this SHA-256 (empty: unknown), as an encoder.

    It is data.tokenizer, or that of the embedded corpus, or the one beside the token files that their manifest names.

    Raises:
        ValueError: there is no tokenizer, or it is not the one of the token files.
    """
    if config.tokenizer:
        path = Path(config.tokenizer)
    elif config.corpus:
        folder = quickstart_folder(config.corpus, directory, vocab_size)
        path = Path(quickstart_files(folder).tokenizer)
    else:
        path = _beside(config)
    tokenizer = open_tokenizer(path)
    if sha256 and tokenizer.sha256 != sha256:
        raise ValueError(
            f"data.tokenizer={path}: its SHA-256 is {tokenizer.sha256[:12]}, the token files were made with"
            f" {sha256[:12]}; give the one that they were made with"
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
