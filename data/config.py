"""The settings of the data folder."""

import os
import shlex
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from data.generated.tasks import FilesOrGenerated, GeneratedConfig, NotGenerated
from data.tokens.prefix import bin_path, idx_path

# How documents become rows; see data/packing/planner.py.
PackingMethod = Literal["best_fit", "concat"]
DEFAULT_LOOK_AHEAD = 1_024


@dataclass(frozen=True)
class PathMark:
    """Marks a text of the configuration as the path of a file or folder, or as a prefix of paths.

    words: values that are not paths.
    """

    words: frozenset[str] = frozenset()


# A relative path starts at the folder of the command or of the file that gives it; code receives it absolute.
PathText = Annotated[str, PathMark()]


@dataclass
class SourceConfig:
    """One source of training documents: token files, or documents that the run generates."""

    # Prefix of the token files PREFIX.bin, PREFIX.idx and PREFIX.manifest.json; empty for generated documents.
    prefix: PathText = ""
    # Documents that the run generates, in place of token files: a task and its settings (data/generated/).
    generated: FilesOrGenerated = field(default_factory=NotGenerated)
    # Prefix of token files with held-out documents of this source, which have a row of their own in every evaluation,
    # beside the mean in the stage's mix; empty: none (generated documents have their own).
    heldout: PathText = ""
    # Share of the tokens, relative to the other sources; a stage's mix overrides it.
    weight: Annotated[float, Ge(0), Lt(inf)] = 1.0


@dataclass
class DataConfig:
    """The sources of documents and how they are packed."""

    # Embedded corpus, prepared on first use, with weight 1 beside generated sources; empty: use data.sources.
    corpus: Literal["", "python_stdlib"] = ""
    # Sources by name; the order of the names is the order of the sources.
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    # Prefix of held-out token files; empty: none (an embedded corpus and generated sources have their own).
    heldout: PathText = ""
    # Tokenizer of the token files, a SentencePiece model or tokenizer.json, for prompts of evaluation.tasks; empty: the
    # one beside the files that their manifest names, or that of the embedded corpus.
    tokenizer: PathText = ""
    # Id of the token that ends documents and pads rows, in a run without token files, which give theirs.
    end_id: Annotated[int, Ge(0), Lt(2**31)] = 0
    # Id of the token that begins every document, in a run without token files; null: none.
    bos_id: Annotated[int, Ge(0), Lt(2**31)] | None = None
    # How documents are packed into rows: best_fit fills each row with spans that fit, concat cuts the documents, end to
    # end, at row borders (data/packing/planner.py).
    packing: PackingMethod = "best_fit"
    # Waiting spans of documents per source that best_fit chooses from; the size of the cursor in a checkpoint.
    look_ahead: Annotated[int, Ge(1), Le(10_000_000)] = DEFAULT_LOOK_AHEAD
    # Global batches that the loader prepares ahead.
    prefetch: Annotated[int, Ge(1), Le(10_000)] = 2
    # Processes that tokenise an embedded corpus.
    workers: Annotated[int, Ge(1), Le(1_000)] = 2
    # Seed of the order of documents and of the packing; default: the run's seed.
    seed: int = 0
    # Whether every byte of the token files is checked at the start. false: of files beyond 256 MiB only some blocks;
    # every page is checked when it is read.
    full_check: bool = False

    def problems(self) -> list[str]:
        """Returns all mistakes, one line each; keys are relative to the run ("data.")."""
        return self.rules() + self.missing()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all sources in order: the embedded corpus, then `sources`."""
        return (*([self.corpus] if self.corpus else []), *self.sources)

    @property
    def files(self) -> dict[str, str]:
        """Prefixes of the sources that have token files, by name."""
        made = self.generated
        return {name: one.prefix for name, one in self.sources.items() if name not in made}

    @property
    def heldout_of_sources(self) -> dict[str, str]:
        """Prefixes of the held-out files of single sources, by name."""
        return {name: one.heldout for name, one in self.sources.items() if one.heldout}

    @property
    def generated(self) -> dict[str, GeneratedConfig]:
        """Settings of the generated sources, by name."""
        found = {name: one.generated for name, one in self.sources.items()}
        return {name: one for name, one in found.items() if not isinstance(one, NotGenerated)}

    @property
    def has_files(self) -> bool:
        """Whether the run reads token files, the embedded corpus and held-out files included."""
        return bool(self.corpus or self.files or self.heldout)

    def missing(self) -> list[str]:
        """Returns one line for each prefix whose token files are missing on this host."""
        prefixes = {f"data.sources.{name}.prefix": prefix for name, prefix in self.files.items()}
        if self.heldout:
            prefixes["data.heldout"] = self.heldout
        prefixes |= {heldout_key(name): one for name, one in self.heldout_of_sources.items()}
        return [line for key, prefix in prefixes.items() for line in missing_files(key, prefix)]

    def rules(self) -> list[str]:
        """Returns every broken rule between these fields; independent of the host."""
        found = []
        if self.corpus and self.files:
            found.append(
                f"data.corpus={self.corpus}: data.sources with files are given as well"
                f" ({', '.join(self.files)}); use one of both, or generated sources"
            )
        if self.corpus in self.sources:
            found.append(
                f"data.sources.{self.corpus}: data.corpus has this name; give the source another"
            )
        if self.corpus and self.heldout:
            found.append(
                f"data.corpus={self.corpus}: brings its own held-out documents; leave"
                " data.heldout empty"
            )
        if not self.corpus and not self.sources:
            found.append(
                "data.sources: there is none; give data=files data.sources.NAME.prefix=PREFIX, or"
                " data.corpus=python_stdlib"
            )
        weighted = any(source.weight > 0 for source in self.sources.values())
        if self.sources and not weighted and (self.files or not self.corpus):
            found.append("data.sources: every weight is 0; give one of them weight=1.0")
        if self.bos_id == self.end_id:
            found.append(f"data.bos_id={self.bos_id}: is data.end_id too; give another id")
        if self.heldout and "mix" in self.heldout_of_sources:
            found.append(
                "data.sources.mix.heldout: with data.heldout, held_out_mix is the mean of the sources; give the"
                " source another name"
            )
        for name, source in self.sources.items():
            has_files = bool(self.corpus or self.files)
            found += _generated_problems(f"data.sources.{name}", source, has_files=has_files)
        return found


def heldout_key(name: str) -> str:
    """The setting with the held-out files of a source."""
    return f"data.sources.{name}.heldout"


def _generated_problems(key: str, source: SourceConfig, *, has_files: bool) -> list[str]:
    """Every broken rule of the settings of a generated source."""
    if isinstance(source.generated, NotGenerated):
        return []
    found = [f"{key}.generated.{line}" for line in source.generated.problems()]
    if source.generated.is_text and not has_files:
        found.append(
            f"{key}.generated.vocabulary=tokenizer: the run has no token files, whose tokenizer that is; give"
            " data.corpus or a source with a prefix, or vocabulary=closed"
        )
    if source.prefix:
        found.append(
            f"{key}.prefix={source.prefix}: the source is generated ({source.generated.task}); use one of both"
        )
    if source.heldout:
        found.append(
            f"{key}.heldout={source.heldout}: the source is generated and has held-out documents of its own; drop it,"
            f" and give {key}.generated.heldout"
        )
    return found


def missing_files(key: str, prefix: str) -> list[str]:
    """One line if token files of `prefix` are missing, with the command that makes them."""
    if not prefix:
        other = (
            f", or give {key.removesuffix('prefix')}generated={{task: copy, ...}}"
            if key.endswith(".prefix")
            else ""
        )
        return [
            f"{key}: is empty; name the prefix of token files made by `ropewalk prepare`{other}"
        ]
    # For a name that is too long, or a folder without permission, os.path returns False and Path raises.
    missing = [str(p) for p in (bin_path(prefix), idx_path(prefix)) if not os.path.isfile(p)]  # noqa: PTH113
    if not missing:
        return []
    return [
        f"{key}={prefix}: no {' and no '.join(missing)}; make them with `ropewalk prepare"
        f" --input PATH --output {shlex.quote(prefix)} --tokenizer MODEL`"
    ]
