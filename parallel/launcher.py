"""Rank, world size and rendezvous address of this process: the only reader of the launcher's environment variables.

torchrun, the deepspeed launcher and Slurm recipes all set RANK, LOCAL_RANK, WORLD_SIZE and MASTER_*.
Without them the world is one process.
"""

import os


def launched_rank() -> int:
    """Global rank that the launcher gave this process (0 without a launcher)."""
    return _number("RANK", 0)


def launched_world_size() -> int:
    """Number of processes the launcher started (1 without a launcher)."""
    return _number("WORLD_SIZE", 1)


def launched_local_rank() -> int:
    """Rank of this process on its own host."""
    return _number("LOCAL_RANK", 0)


def launched_local_size() -> int | None:
    """Number of processes on this host; None where the launcher does not set it (torchrun and deepspeed do)."""
    told = _number("LOCAL_WORLD_SIZE", 0) or _number("LOCAL_SIZE", 0)
    return told or None


def meeting_place() -> tuple[str, int] | None:
    """Returns address and port of the rendezvous; None without MASTER_ADDR.

    Raises:
        ValueError: MASTER_PORT is missing or is not a port number.
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if address is None:
        return None
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(
            f"MASTER_PORT={port!r}: must be the number of a free port of {address}, 1 to 65535; the "
            "launcher sets it"
        )
    return address, int(port)


def launcher_keeps_store() -> bool:
    """Whether torchrun's agent serves the rendezvous store; otherwise rank 0 does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def launch_problems() -> list[str]:
    """Returns one line for each variable of this process that is malformed or contradicts another."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = [
        f"{name}={value}: must be a whole number; the launcher sets it"
        for name in names
        if not (value := os.environ.get(name, "0")).isdecimal()
    ]
    if "RANK" in os.environ and "WORLD_SIZE" not in os.environ:
        found.append("RANK is set but WORLD_SIZE is not: start with torchrun, or unset RANK")
    if found:
        return found
    rank, size = launched_rank(), launched_world_size()
    if rank >= size:
        found.append(
            f"RANK={rank} with WORLD_SIZE={size}: ranks go from 0 to {size - 1}; unset the one that was set by "
            "hand, or correct the launcher's settings"
        )
    local_rank, local_size = launched_local_rank(), launched_local_size()
    if local_size is not None and local_rank >= local_size:
        found.append(
            f"LOCAL_RANK={local_rank} with {local_size} ranks on this host: local ranks go from 0 to "
            f"{local_size - 1}"
        )
    if local_size is not None and local_size > size:
        found.append(f"{local_size} ranks on this host with WORLD_SIZE={size}: more than there are")
    return found


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
