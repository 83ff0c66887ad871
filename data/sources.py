"""The corpus of a run, opened and checked: token files as sources for planner and loader."""

from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_python_version

import numpy as np

from data.config import DataConfig
from data.embedded_corpus import PreparedCorpus, prepare_quickstart, quickstart_files
from data.tokens import manifest
from data.tokens.indexed_dataset import IndexedDataset
from data.tokens.prefix import bin_path
from data.tokens.token_file import DamagedData


@dataclass(frozen=True)
class TokenSource:
    """Token files with what their manifest knows of them; can be planned and read."""

    name: str
    dataset: IndexedDataset
    eos_id: int
    # Begins every document; None: documents begin with their text.
    bos_id: int | None
    vocab_size: int
    # None: a manifest that an earlier version wrote. Then every piece is compared with the vocabulary as it is read.
    largest_id: int | None
    tokenizer_sha256: str
    sha256: str

    @property
    def num_documents(self) -> int:
        """Documents in the files."""
        return self.dataset.num_documents

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        """int64 lengths in tokens of the documents asked for."""
        return self.dataset.document_lengths(documents)

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length) of a document, each an id of the vocabulary.

        Raises:
            DamagedData: they cannot be read, or one of them is no id of the vocabulary.
        """
        tokens = self.dataset.read(document, start, length)
        if self.largest_id is None and len(tokens):
            for token in (int(tokens.max()), int(tokens.min())):
                if not 0 <= token < self.vocab_size:
                    raise DamagedData(
                        f"{bin_path(self.dataset.prefix)}: document {document} holds id {token}, the vocabulary has"
                        f" {self.vocab_size}; describe the files again with `python -m data.manifest"
                        f" {self.dataset.prefix} --create --overwrite` and the vocabulary that they were made with"
                    )
        return tokens


@dataclass(frozen=True)
class Corpus:
    """Everything a run reads; `heldout` is None where none was given."""

    sources: tuple[TokenSource, ...]
    heldout: TokenSource | None

    @property
    def eos_id(self) -> int:
        """The token that ends documents, and pads rows."""
        return self.sources[0].eos_id

    @property
    def vocab_size(self) -> int:
        """Pieces of the tokenizer; a model needs at least as many."""
        return self.sources[0].vocab_size


def quickstart_folder(config: DataConfig, directory: str | Path, vocab_size: int) -> Path:
    """Where an embedded corpus is kept below `directory`."""
    return Path(directory) / f"{config.corpus}-{get_python_version()}-{vocab_size}"


def make_corpus(
    config: DataConfig, directory: str | Path, vocab_size: int, *, show_progress: bool = True
) -> None:
    """Make the embedded corpus where it is asked for and not there yet; on one process per disk."""
    if config.corpus:
        prepare_quickstart(
            quickstart_folder(config, directory, vocab_size),
            vocab_size,
            workers=config.workers,
            show_progress=show_progress,
        )


def corpus_prefixes(
    config: DataConfig, directory: str | Path, vocab_size: int
) -> tuple[dict[str, str], str]:
    """Prefixes of the token files to train on, by source, and of the held-out ones ("": none)."""
    if config.corpus:
        made: PreparedCorpus = quickstart_files(quickstart_folder(config, directory, vocab_size))
        return {config.corpus: made.train}, made.heldout
    return {name: source.prefix for name, source in config.sources.items()}, config.heldout


def open_corpus(
    config: DataConfig, directory: str | Path, vocab_size: int, *, check: bool = True
) -> Corpus:
    """Open all sources; `check` compares contents with manifests (one process per disk suffices).

    Raises:
        ValueError: files are missing or damaged, tokenizers, end tokens or BOS tokens differ between sources, or the
            model's `vocab_size` is too small for them.
    """
    prefixes, heldout = corpus_prefixes(config, directory, vocab_size)
    sources = tuple(
        open_source(name, prefix, check=check, full=config.full_check)
        for name, prefix in prefixes.items()
    )
    held = open_source("heldout", heldout, check=check, full=config.full_check) if heldout else None
    _check_tokenizers(sources, held, vocab_size)
    return Corpus(sources, held)


def open_source(name: str, prefix: str, *, check: bool = True, full: bool = False) -> TokenSource:
    """Open one pair of token files; ValueError when something about them is wrong."""
    described = manifest.verify(prefix, full=full) if check else manifest.load(prefix)
    dataset = IndexedDataset(prefix, page_bytes=int(described["page_bytes"]))
    return TokenSource(
        name=name,
        dataset=dataset,
        eos_id=described["eos_id"],
        bos_id=described.get("bos_id"),
        vocab_size=described["vocab_size"],
        largest_id=described.get("largest_id"),
        tokenizer_sha256=str(described["tokenizer"]["sha256"]),
        sha256=str(described["files"]["bin"]["sha256"]),
    )


def _check_tokenizers(
    sources: tuple[TokenSource, ...], heldout: TokenSource | None, vocab_size: int
) -> None:
    """All sources of a run share one tokenizer, one end token and one BOS, within the model's vocabulary."""
    first = sources[0]
    for source in sources if heldout is None else (*sources, heldout):
        key = "data.heldout" if source is heldout else f"data.sources.{source.name}.prefix"
        where = f"{key}={source.dataset.prefix}"
        if source.tokenizer_sha256 != first.tokenizer_sha256:
            raise ValueError(
                f"{where}: made with another tokenizer than {first.name}"
                f" ({source.tokenizer_sha256[:12]} and {first.tokenizer_sha256[:12]}); prepare both with the same"
            )
        for what, mine, other in (
            ("documents end with id", source.eos_id, first.eos_id),
            ("documents begin with BOS id", source.bos_id, first.bos_id),
        ):
            if mine != other:
                raise ValueError(
                    f"{where}: its {what} {_or_none(mine)}, those of {first.name} with {_or_none(other)}; prepare or"
                    " describe both alike"
                )
        if source.vocab_size > vocab_size:
            raise ValueError(
                f"model.vocab_size={vocab_size}: the tokens of {source.dataset.prefix} go up to"
                f" {source.vocab_size}; use model.vocab_size={source.vocab_size} or more"
            )


def _or_none(token: int | None) -> str:
    return "none" if token is None else str(token)
