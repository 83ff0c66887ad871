"""Collects the facts of a rank; on one rank of every host, also those of the host and its files."""

import dataclasses
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from data.config import missing_files
from data.sources import corpus_prefixes
from data.tokens import manifest
from data.tokens.prefix import bin_path, crc_path, idx_path, manifest_path
from parallel.launcher import launched_local_rank, launched_local_size
from parallel.mesh import Mesh
from parallel.watch.verdict import rank_ranges
from train import build
from train.configuration import validate
from train.configuration.schema import RunConfig, run_folder
from train.preflight.facts import CorpusFiles, Facts, Site
from train.preflight.gpu import ask_nvidia_smi, look_at_gpu
from train.preflight.output import Token, token_problem

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("model", "data", "parallel", "train")
# In addition to the packages that a run records.
_MORE_PACKAGES = ("safetensors", "omegaconf", "pydantic")


@dataclasses.dataclass(frozen=True)
class Brief:
    """The main rank's message to the others at the start. stamps: of its token files, by source."""

    stamps: dict[str, str]
    token: Token | None


def collect(
    config: RunConfig, mesh: Mesh, brief: Brief, problems: list[str], *, looks_at_host: bool
) -> Facts:
    """Returns the facts of this rank. problems: those already found, one line each."""
    name, machine = this_host()
    return Facts(
        rank=mesh.rank,
        host=name,
        machine=machine,
        local_rank=launched_local_rank(),
        local_size=launched_local_size(),
        world_size=mesh.world_size,
        cores=rank_ranges(sorted(os.sched_getaffinity(0))),
        threads=torch.get_num_threads(),
        device=mesh.device.type,
        gpu=look_at_gpu(mesh.device) if mesh.device.type == "cuda" else None,
        site=_site(config, mesh, brief, problems) if looks_at_host else None,
    )


def this_host() -> tuple[str, str]:
    """Returns the host name, and an identifier that distinguishes hosts of the same name."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        machine = f"{uuid.getnode():x}"
    return socket.gethostname(), machine


def stamps(config: RunConfig) -> dict[str, str]:
    """Returns a digest of size, inode and time of each token file: it differs for a copy of the files."""
    return {name: _stamp(prefix) for name, prefix in _prefixes(config).items()}


def _stamp(prefix: str) -> str:
    files = (manifest_path(prefix), idx_path(prefix), crc_path(prefix), bin_path(prefix))
    try:
        found = [file.stat() for file in files]
    except OSError:
        return ""
    return _digest(str([(s.st_size, s.st_ino, s.st_mtime_ns) for s in found]))


def _prefixes(config: RunConfig) -> dict[str, str]:
    prefixes, heldout = corpus_prefixes(config.data, config.paths.prepared, config.model.vocab_size)
    own = {f"held-out {name}": one for name, one in config.data.heldout_of_sources.items()}
    return prefixes | ({"held-out": heldout} if heldout else {}) | own


def _site(config: RunConfig, mesh: Mesh, brief: Brief, problems: list[str]) -> Site:
    on_gpu = mesh.device.type == "cuda"
    return Site(
        versions=_versions(),
        code=_code(),
        commit=_commit(),
        folder=str(Path.cwd()),
        problems=problems + validate.places(config, room=mesh.is_main),
        corpora={
            name: _corpus(prefix, _stamp(prefix) != brief.stamps.get(name), config)
            for name, prefix in _prefixes(config).items()
            # If making an embedded corpus failed, that is already reported.
            if (config.data.corpus and not problems) or not missing_files("", prefix)
        },
        output_problem=token_problem(run_folder(config), brief.token, mesh.rank),
        memory_available=_memory_available(),
        shared_memory_free=_free("/dev/shm"),
        temporary_free=_free(tempfile.gettempdir()),
        num_gpus=torch.cuda.device_count() if on_gpu else 0,
        gpus=ask_nvidia_smi() if on_gpu else {},
    )


def _corpus(prefix: str, is_copy: bool, config: RunConfig) -> CorpusFiles:
    """Describes the files of this prefix. The main rank has checked its own files; copies are checked here."""
    try:
        check = manifest.verify(prefix, full=config.data.full_check) if is_copy else None
        described = check or manifest.load(prefix)
        content = manifest_path(prefix).read_bytes()
    except (ValueError, OSError) as error:
        return CorpusFiles(prefix, "", "", 0, str(error))
    tokenizer = str(described["tokenizer"]["sha256"])
    return CorpusFiles(prefix, _digest(content), tokenizer[:16], int(described["tokens"]))


def _versions() -> dict[str, str]:
    found = build.versions()
    for package in _MORE_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return found


def _code() -> str:
    files = [f for package in _PACKAGES for f in (ROOT / package).rglob("*.py")]
    digest = hashlib.sha256()
    for file in sorted([*files, *(ROOT / "conf").rglob("*.yaml")]):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _commit() -> str:
    """Returns the commit of the checkout; "" if it is no git checkout, or git is not installed."""
    try:
        asked = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _memory_available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else 0


def _free(folder: str) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _digest(content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:16]
