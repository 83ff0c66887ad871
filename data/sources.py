"""The corpus of a run, opened and checked: token files as sources for planner and loader."""

from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_python_version

import numpy as np

from data.config import DataConfig
from data.embedded_corpus import PreparedCorpus, prepare_quickstart, quickstart_files
from data.tokens import manifest
from data.tokens.declared import HELDOUT, Declared, declared, disagreements
from data.tokens.indexed_dataset import IndexedDataset
from data.tokens.prefix import bin_path
from data.tokens.token_file import DamagedData


@dataclass(frozen=True)
class TokenSource(Declared):
    """Token files with what their manifest knows of them; can be planned and read."""

    dataset: IndexedDataset
    # None: a manifest that an earlier version wrote. Then every piece is compared with the vocabulary as it is read.
    largest_id: int | None

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
                        f" {self.vocab_size}; describe the files again with `ropewalk manifest"
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
            model's `vocab_size` is too small for them; one line each.
    """
    prefixes, heldout = corpus_prefixes(config, directory, vocab_size)
    sources = tuple(
        open_source(name, prefix, check=check, full=config.full_check)
        for name, prefix in prefixes.items()
    )
    held = (
        open_source("heldout", heldout, check=check, full=config.full_check, key=HELDOUT)
        if heldout
        else None
    )
    if found := disagreements([*sources, *([held] if held else [])], vocab_size):
        raise ValueError("\n".join(found))
    return Corpus(sources, held)


def open_source(
    name: str, prefix: str, *, check: bool = True, full: bool = False, key: str = ""
) -> TokenSource:
    """Open one pair of token files; ValueError when something about them is wrong.

    key: the setting that names them, if it is not that of a source.
    """
    described = manifest.verify(prefix, full=full) if check else manifest.load(prefix)
    dataset = IndexedDataset(prefix, page_bytes=int(described["page_bytes"]))
    return TokenSource(
        **vars(declared(key or f"data.sources.{name}.prefix", name, prefix, described)),
        dataset=dataset,
        largest_id=described.get("largest_id"),
    )
