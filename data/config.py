"""The knobs of the data folder."""

import os
from dataclasses import dataclass, field

from data.tokens.indexed_dataset import bin_path, idx_path

EMBEDDED_CORPORA = ("python_stdlib",)
# How documents become rows; see data/packing/planner.py.
METHODS = ("best_fit", "concat")
DEFAULT_LOOK_AHEAD = 1_024


@dataclass
class SourceConfig:
    """One source of training documents."""

    prefix: str = ""
    """Token files PREFIX.bin, PREFIX.idx, PREFIX.manifest.json."""
    weight: float = 1.0
    """Share of the tokens, relative to the other sources; a stage's mix overrides it."""


@dataclass
class DataConfig:
    """Where documents come from and how they are packed."""

    corpus: str = ""
    """An embedded corpus, made on first use: "python_stdlib".  Empty: use `sources`."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Sources by name; the order of the names is the order of the sources."""
    heldout: str = ""
    """Prefix of held-out token files; empty: none (an embedded corpus has its own)."""
    packing: str = "best_fit"
    """How documents become rows: best_fit or concat (data/packing/planner.py)."""
    look_ahead: int = DEFAULT_LOOK_AHEAD
    """Documents a source that best_fit chooses from; the cursor in a checkpoint is as long."""
    prefetch: int = 2
    """Global batches kept ready by the loader."""
    workers: int = 2
    """Processes that tokenise an embedded corpus."""
    seed: int = 0
    """Of the order of documents and of the packing lottery."""
    full_check: bool = False
    """Compare every byte of the token files at start; otherwise, of tokens beyond 256 MiB, only some
    blocks then and every page as it is read."""

    def problems(self) -> list[str]:
        """Everything that is wrong, one clear line each; keys relative to the run ("data.")."""
        return self.rules() + self.missing()

    def missing(self) -> list[str]:
        """Which token files are not there, on this host."""
        prefixes = {f"data.sources.{name}.prefix": s.prefix for name, s in self.sources.items()}
        if self.heldout:
            prefixes["data.heldout"] = self.heldout
        return [line for key, prefix in prefixes.items() for line in missing_files(key, prefix)]

    def rules(self) -> list[str]:
        """What is wrong on any host."""
        found = []
        if self.corpus and self.corpus not in EMBEDDED_CORPORA:
            found.append(
                f"data.corpus={self.corpus}: no such embedded corpus; use"
                f" {', '.join(EMBEDDED_CORPORA)}, or leave it empty and name data.sources"
            )
        if self.corpus and self.sources:
            found.append(
                f"data.corpus={self.corpus}: data.sources are given as well"
                f" ({', '.join(self.sources)}); use one of both"
            )
        if self.corpus and self.heldout:
            found.append(
                f"data.corpus={self.corpus}: brings its own held-out documents; leave"
                " data.heldout empty"
            )
        if not self.corpus and not self.sources:
            found.append(
                "data.sources: there is none; give data=files data.sources.NAME.prefix=PREFIX, or"
                f" data.corpus={EMBEDDED_CORPORA[0]}"
            )
        found += self._source_problems()
        if self.packing not in METHODS:
            found.append(f"data.packing={self.packing}: unknown; use {' or '.join(METHODS)}")
        for name, value, most, default in (
            ("look_ahead", self.look_ahead, 10_000_000, DEFAULT_LOOK_AHEAD),
            ("prefetch", self.prefetch, 10_000, 2),
            ("workers", self.workers, 1_000, 2),
        ):
            if not 1 <= value <= most:
                found.append(f"data.{name}={value}: must be from 1 to {most}; use {default}")
        return found

    def _source_problems(self) -> list[str]:
        found = []
        for name, source in self.sources.items():
            if not 0 <= source.weight < float("inf"):
                found.append(
                    f"data.sources.{name}.weight={source.weight}: must be 0 or more; use 1.0"
                )
        if self.sources and not any(source.weight > 0 for source in self.sources.values()):
            found.append("data.sources: every weight is 0; give one of them weight=1.0")
        return found


def missing_files(key: str, prefix: str) -> list[str]:
    """One line when the token files of `prefix` are not there, saying how to make them."""
    if not prefix:
        return [f"{key}: is empty; name the prefix of token files made by `python -m data.prepare`"]
    # os.path knows a name that is too long, or a folder that may not be entered, as "no file"; Path raises.
    missing = [str(p) for p in (bin_path(prefix), idx_path(prefix)) if not os.path.isfile(p)]  # noqa: PTH113
    if not missing:
        return []
    return [
        f"{key}={prefix}: no {' and no '.join(missing)}; make them with `python -m data.prepare"
        f" --input PATH --output {prefix} --tokenizer MODEL`"
    ]
