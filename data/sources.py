"""Opens and checks the corpus of a run: token files and generated documents as sources for planner and loader."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.config import DataConfig, heldout_key
from data.embedded_corpus import (
    PreparedCorpus,
    prepare_quickstart,
    quickstart_files,
    quickstart_folder,
)
from data.generated.documents import HELD_OUT, Task
from data.generated.prompts import Prompts, PromptsTask
from data.generated.source import GeneratedSource
from data.generated.tasks import TASKS, GeneratedConfig
from data.ngram import NgramYardstick, cached_fit, fit
from data.prompts.text import TextOfRun
from data.text_encoder import open_tokenizer_of
from data.tokens import manifest
from data.tokens.declared import (
    HELDOUT,
    Declared,
    declared,
    declared_generated,
    disagreements,
)
from data.tokens.indexed_dataset import IndexedDataset
from data.tokens.label_file import LabelFile
from data.tokens.token_file import DamagedData


@dataclass(frozen=True)
class TokenSource(Declared):
    """Token files and the facts of their manifest, as a source for planner and loader."""

    dataset: IndexedDataset
    # None for a manifest of an earlier version; every piece is then compared with the vocabulary when it is read.
    largest_id: int | None
    # Which tokens have a label; None: all of them.
    labels: LabelFile | None = None

    # Not in the manifest: lengths stand in the index, and are looked through quickly.
    longest: int | None = None

    @property
    def num_documents(self) -> int:
        """Documents in the files."""
        return self.dataset.num_documents

    @property
    def num_tokens(self) -> int:
        """Tokens in the files."""
        return self.dataset.num_tokens

    @property
    def num_labelled(self) -> int:
        """Tokens in the files that have a label."""
        return self.num_tokens if self.labels is None else self.labels.num_labelled

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
                        f"{self.dataset.name}: document {document} holds id {token}, the vocabulary has"
                        f" {self.vocab_size}; describe the files again with `ropewalk manifest"
                        f" {self.dataset.prefix} --create --overwrite` and the vocabulary that they were made with"
                    )
        return tokens


Source = TokenSource | GeneratedSource


@dataclass(frozen=True)
class Corpus:
    """The sources of a run.

    heldout: held-out files or, without them, held-out documents of the first generated source that has some; None if
    there are neither. more_heldout: held-out documents of the other generated sources.
    of_sources: held-out documents of every source that has some, if files of single sources are among them. Then
    `more_heldout` is empty, and `heldout` is the first of these files if the run has no others.
    """

    sources: tuple[Source, ...]
    heldout: Source | None
    more_heldout: tuple[GeneratedSource, ...] = ()
    of_sources: tuple[Source, ...] = ()

    @property
    def described(self) -> tuple[Source, ...]:
        """The sources, and the held-out files if the run has any."""
        held = [self.heldout, *(one for one in self.of_sources if one is not self.heldout)]
        return (*self.sources, *(one for one in held if one is not None and not one.is_generated))

    @property
    def eos_id(self) -> int:
        """The token that ends documents, and pads rows."""
        return self.sources[0].eos_id

    @property
    def vocab_size(self) -> int:
        """Number of ids of the tokenizer; a model needs at least as many."""
        return self.sources[0].vocab_size


def make_corpus(
    config: DataConfig, directory: str | Path, vocab_size: int, *, show_progress: bool = True
) -> None:
    """Make the embedded corpus if the configuration has one and its files are missing; call on one process per disk."""
    if config.corpus:
        prepare_quickstart(
            quickstart_folder(config.corpus, directory, vocab_size),
            vocab_size,
            workers=config.workers,
            show_progress=show_progress,
        )


def corpus_prefixes(
    config: DataConfig, directory: str | Path, vocab_size: int
) -> tuple[dict[str, str], str]:
    """Prefixes of the training files, by source, and of the held-out files ("" for none)."""
    if config.corpus:
        made: PreparedCorpus = quickstart_files(
            quickstart_folder(config.corpus, directory, vocab_size)
        )
        return {config.corpus: made.train}, made.heldout
    return config.files, config.heldout


def open_corpus(
    config: DataConfig, directory: str | Path, vocab_size: int, *, check: bool = True
) -> Corpus:
    """Open all sources. check: compare contents with manifests (one process per disk suffices).

    Raises:
        ValueError: files are missing or damaged; tokenizers, end tokens or BOS tokens differ between sources; or
            `vocab_size` is too small for the tokens. One line each.
    """
    prefixes, heldout = corpus_prefixes(config, directory, vocab_size)
    files = {
        name: open_source(name, prefix, check=check, full=config.full_check)
        for name, prefix in prefixes.items()
    }
    held = (
        open_source("heldout", heldout, check=check, full=config.full_check, key=HELDOUT)
        if heldout
        else None
    )
    own = {
        name: open_source(name, one, check=check, full=config.full_check, key=heldout_key(name))
        for name, one in config.heldout_of_sources.items()
    }
    opened = [*files.values(), *([held] if held else []), *own.values()]
    made = {
        name: declared_generated(name, settings, config, opened)
        for name, settings in config.generated.items()
    }
    if found := disagreements([*opened, *made.values()], vocab_size):
        raise ValueError("\n".join(found))
    generated = config.generated
    text = None
    if any(settings.is_text for settings in generated.values()):
        first = next(iter(files.values()))
        encoder = open_tokenizer_of(config, directory, vocab_size, first.tokenizer_sha256)
        text = TextOfRun(encoder, first.eos_id, first.bos_id, first)
    sources = tuple(
        files[name] if name in files else generate(made[name], generated[name], text=text)
        for name in config.names
    )
    kept_apart = [
        generate(made[name], settings, held_out=True, text=text)
        for name, settings in generated.items()
        if settings.heldout
    ]
    if own:
        apart = own | {one.name: one for one in kept_apart}
        of_sources = tuple(apart[name] for name in config.names if name in apart)
        return Corpus(sources, held or next(iter(own.values())), (), of_sources)
    if held is None and kept_apart:
        return Corpus(sources, kept_apart[0], tuple(kept_apart[1:]))
    return Corpus(sources, held, tuple(kept_apart))


def generate(
    facts: Declared,
    settings: GeneratedConfig,
    *,
    held_out: bool = False,
    text: TextOfRun | None = None,
) -> GeneratedSource:
    """The training documents of a generated source, or its held-out documents. text: for a source of text."""
    return GeneratedSource(
        **vars(facts),
        task=_task(settings, facts, text),
        first=HELD_OUT if held_out else 0,
        num_documents=settings.heldout if held_out else settings.documents,
        ids=_ids(settings, facts),
        text=text if settings.is_text else None,
        longest=settings.max_length,
    )


def _task(settings: GeneratedConfig, facts: Declared, text: TextOfRun | None) -> Task:
    num_special = 1 if facts.bos_id is None else 2
    if isinstance(settings, Prompts) and settings.is_text:
        assert text is not None, "a source of text needs the run's tokenizer"
        shortest = replace(settings, max_length=settings.min_length)
        if found := settings.too_short(PromptsTask(shortest, num_special, text)):
            raise ValueError(f"{facts.key}.{found[0]}")
        return PromptsTask(settings, num_special, text)
    return TASKS[type(settings)].make(settings, num_special)


def _ids(settings: GeneratedConfig, facts: Declared) -> np.ndarray:
    """The id of each symbol of a task; text already consists of ids."""
    if settings.is_text:
        return np.arange(facts.vocab_size)
    return settings.symbol_ids(facts.eos_id, facts.bos_id)


def held_out_of_length(
    source: GeneratedSource, settings: GeneratedConfig, length: int
) -> GeneratedSource:
    """The held-out documents of a generated source with these settings, each of `length` tokens in their place."""
    longer = replace(settings, min_length=length, max_length=length)
    return replace(
        source,
        task=_task(longer, source, source.text),
        first=HELD_OUT,
        longest=length,
        num_documents=settings.heldout,
    )


def yardstick(source: Source, vocab_size: int, *, max_tokens: int) -> NgramYardstick:
    """Counts of the first documents of a source, up to about `max_tokens`; those of files are cached beside them."""
    if isinstance(source, GeneratedSource):
        return fit(source, vocab_size, max_tokens=max_tokens)
    return cached_fit(source.dataset, vocab_size, max_tokens=max_tokens, sha256=source.identity)


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
