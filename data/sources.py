"""The corpus of a run, opened and checked: token files as sources for planner and loader."""

from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_python_version

import numpy as np

from data.config import DataConfig
from data.embedded_corpus import PreparedCorpus, prepare_quickstart, quickstart_files
from data.tokens import manifest
from data.tokens.indexed_dataset import IndexedDataset


@dataclass(frozen=True)
class TokenSource:
    """Token files with what their manifest knows of them; can be planned and read."""

    name: str
    dataset: IndexedDataset
    eos_id: int
    vocab_size: int
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
        """Tokens [start, start + length) of a document."""
        return self.dataset.read(document, start, length)


@dataclass(frozen=True)
class Corpus:
    """Everything a run reads.  `heldout` is empty where none was given."""

    sources: tuple[TokenSource, ...]
    heldout: tuple[TokenSource, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources, in order."""
        return tuple(source.name for source in self.sources)

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

    ValueError when files are missing or damaged, when tokenizers differ between sources, or when
    the model's `vocab_size` is too small for them.
    """
    prefixes, heldout = corpus_prefixes(config, directory, vocab_size)
    sources = tuple(
        open_source(name, prefix, check=check, full=config.full_check)
        for name, prefix in prefixes.items()
    )
    held = (
        (open_source("heldout", heldout, check=check, full=config.full_check),) if heldout else ()
    )
    _check_tokenizers((*sources, *held), vocab_size)
    return Corpus(sources, held)


def open_source(name: str, prefix: str, *, check: bool = True, full: bool = False) -> TokenSource:
    """Open one pair of token files; ValueError when something about them is wrong."""
    described = manifest.verify(prefix, full=full) if check else manifest.load(prefix)
    dataset = IndexedDataset(prefix, page_bytes=int(described["page_bytes"]))
    return TokenSource(
        name=name,
        dataset=dataset,
        eos_id=int(described.get("eos_id", 0)),
        vocab_size=int(described.get("vocab_size", 0)),
        tokenizer_sha256=str(described["tokenizer"]["sha256"]),
        sha256=str(described["files"]["bin"]["sha256"]),
    )


def _check_tokenizers(sources: tuple[TokenSource, ...], vocab_size: int) -> None:
    first = sources[0]
    for source in sources:
        if source.tokenizer_sha256 != first.tokenizer_sha256:
            raise ValueError(
                f"data.sources.{source.name}.prefix={source.dataset.prefix}: made with another"
                f" tokenizer than {first.name} ({source.tokenizer_sha256[:12]} and"
                f" {first.tokenizer_sha256[:12]}); prepare both with the same"
            )
        if source.vocab_size > vocab_size:
            raise ValueError(
                f"model.vocab_size={vocab_size}: the tokens of {source.dataset.prefix} go up to"
                f" {source.vocab_size}; use model.vocab_size={source.vocab_size} or more"
            )
