"""Facts of one rank and its host, checked in judge.py. A few kB of JSON per rank."""

from dataclasses import asdict, dataclass, field
from typing import Any

from parallel.links import GroupTest


@dataclass(frozen=True)
class Gpu:
    """The GPU of a rank. total, used_by_others: bytes; the latter not held by this process.

    flops: FLOP/s of a matrix product. wrong: whether the product was wrong.
    """

    uuid: str
    name: str
    total: int
    used_by_others: int
    flops: float = 0.0
    wrong: bool = False


@dataclass(frozen=True)
class GpuState:
    """Values of nvidia-smi for a GPU. None: not reported."""

    driver: str
    temperature: int | None
    uncorrected_errors: int | None
    # Bits, see train/preflight/gpu.py.
    slowed_by: int


@dataclass(frozen=True)
class CorpusFiles:
    """One pair of token files on a host. problem: why the host cannot use it."""

    path: str
    manifest: str
    tokenizer: str
    tokens: int
    problem: str = ""


@dataclass(frozen=True)
class Site:
    """Facts that one rank of a host collects for all of its ranks. Sizes in bytes; 0: unknown."""

    versions: dict[str, str]
    # SHA-256 of our .py files and conf/; commit: "" where there is no git.
    code: str
    commit: str
    folder: str
    # Mistakes that this rank can find by itself.
    problems: list[str]
    corpora: dict[str, CorpusFiles]
    # Why the output folder is not the main rank's, or cannot be written; "": neither.
    output_problem: str
    memory_available: int
    shared_memory_free: int
    temporary_free: int
    num_gpus: int
    gpus: dict[str, GpuState]


@dataclass(frozen=True)
class Facts:
    """Facts of one rank.

    cores: numbers of the processors it may run on, as "0-3, 8". local_size: ranks of this host,
    as set by the launcher.
    """

    rank: int
    host: str
    machine: str
    local_rank: int
    local_size: int | None
    world_size: int
    cores: str
    threads: int
    device: str
    gpu: Gpu | None
    site: Site | None

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Facts":
        """From `to_json`."""
        gpu, site = content["gpu"], content["site"]
        return cls(
            **{
                **content,
                "gpu": Gpu(**gpu) if gpu else None,
                "site": _site(site) if site else None,
            }
        )


@dataclass(frozen=True)
class Trial:
    """One rank's results of the group tests, and its times in barriers of the whole world."""

    rank: int
    # This host's clock in seconds before and after each barrier.
    clock: list[tuple[float, float]] = field(default_factory=list)
    groups: list[GroupTest] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Trial":
        """From `to_json`."""
        return cls(
            content["rank"],
            [(before, after) for before, after in content["clock"]],
            [GroupTest(**group) for group in content["groups"]],
        )


def _site(content: dict[str, Any]) -> Site:
    corpora = {name: CorpusFiles(**corpus) for name, corpus in content["corpora"].items()}
    gpus = {uuid: GpuState(**state) for uuid, state in content["gpus"].items()}
    return Site(**{**content, "corpora": corpora, "gpus": gpus})
