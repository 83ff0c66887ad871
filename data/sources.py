"""Opens and checks the corpus of a run: token files as sources for planner and loader."""

from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_python_version

import numpy as np

from data.config import DataConfig
from data.embedded_corpus import PreparedCorpus, prepare_quickstart, quickstart_files
from data.tokens import manifest
from data.tokens.declared import HELDOUT, Declared, declared, disagreements
from data.tokens.indexed_dataset import IndexedDataset
from data.tokens.label_file import LabelFile
from data.tokens.prefix import bin_path
from data.tokens.token_file import DamagedData


@dataclass(frozen=True)
class TokenSource(Declared):
    """Token files and the facts of their manifest, as a source for planner and loader."""

    dataset: IndexedDataset
    # None for a manifest of an earlier version; every piece is then compared with the vocabulary when it is read.
    largest_id: int | None
    # Which tokens have a label; None: all of them.
    labels: LabelFile | None = None

    @property
    def num_documents(self) -> int:
        """Documents in the files."""
        return self.dataset.num_documents

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        """int64 lengths in tokens of `documents`."""
        return self.dataset.document_lengths(documents)

    def count_labels(self, document: int, start: int, length: int) -> int:
        """See data/labels.py."""
        if self.labels is None:
            return length - 1
        return self.labels.count(document, start + 1, start + length)

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray | None:
        """See data/labels.py."""
        return None if self.labels is None else self.labels.mask(document, start, length)

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length) of a document, all of them ids of the vocabulary.

        Raises:
            DamagedData: the tokens cannot be read, or one of them is not in the vocabulary.
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
    """The sources of a run; `heldout` is None if the run has no held-out files."""

    sources: tuple[TokenSource, ...]
    heldout: TokenSource | None

    @property
    def files(self) -> tuple[TokenSource, ...]:
        """The sources, and the held-out files if the run has any."""
        return self.sources if self.heldout is None else (*self.sources, self.heldout)

    @property
    def eos_id(self) -> int:
        """The token that ends documents, and pads rows."""
        return self.sources[0].eos_id

    @property
    def vocab_size(self) -> int:
        """Number of ids of the tokenizer; a model needs at least as many."""
        return self.sources[0].vocab_size


def quickstart_folder(config: DataConfig, directory: str | Path, vocab_size: int) -> Path:
    """The folder of an embedded corpus below `directory`."""
    return Path(directory) / f"{config.corpus}-{get_python_version()}-{vocab_size}"


def make_corpus(
    config: DataConfig, directory: str | Path, vocab_size: int, *, show_progress: bool = True
) -> None:
    """Make the embedded corpus if the configuration has one and its files are missing; call on one process per disk."""
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
    """Prefixes of the training files, by source, and of the held-out files ("" for none)."""
    if config.corpus:
        made: PreparedCorpus = quickstart_files(quickstart_folder(config, directory, vocab_size))
        return {config.corpus: made.train}, made.heldout
    return {name: source.prefix for name, source in config.sources.items()}, config.heldout


def open_corpus(
    config: DataConfig, directory: str | Path, vocab_size: int, *, check: bool = True
) -> Corpus:
    """Open all sources. check: compare contents with manifests (one process per disk suffices).

    Raises:
        ValueError: files are missing or damaged; tokenizers, end tokens or BOS tokens differ between sources; or
            `vocab_size` is too small for the tokens. One line each.
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
    """Open one pair of token files; raises ValueError if they are missing or damaged.

    key: the setting that names them; empty: data.sources.NAME.prefix.
    """
    described = manifest.verify(prefix, full=full) if check else manifest.load(prefix)
    dataset = IndexedDataset(prefix, page_bytes=int(described["page_bytes"]))
    return TokenSource(
        **vars(declared(key or f"data.sources.{name}.prefix", name, prefix, described)),
        dataset=dataset,
        largest_id=described.get("largest_id"),
        labels=LabelFile(prefix, dataset.num_documents) if "labels" in described["files"] else None,
    )
