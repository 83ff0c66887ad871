"""What the launcher said of this process: the only reader of its environment variables.

torchrun, the deepspeed launcher and Slurm recipes all set RANK, LOCAL_RANK, WORLD_SIZE and MASTER_*;
without them the run is a world of one process.
"""

import os


def launched_rank() -> int:
    """Global rank the launcher gave this process (0 without a launcher)."""
    return _number("RANK", 0)


def launched_world_size() -> int:
    """Number of processes the launcher started (1 without a launcher)."""
    return _number("WORLD_SIZE", 1)


def launched_local_rank() -> int:
    """Rank of this process on its own host."""
    return _number("LOCAL_RANK", 0)


def launched_local_size() -> int | None:
    """Number of processes on this host, where the launcher says it (torchrun, deepspeed)."""
    told = _number("LOCAL_WORLD_SIZE", 0) or _number("LOCAL_SIZE", 0)
    return told or None


def meeting_place() -> tuple[str, int] | None:
    """Address and port where the ranks meet; None where the launcher names none.

    Raises:
        ValueError: there is an address without a port, or the port is none.
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
    """Whether torchrun's agent serves the store where ranks meet, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def launch_problems() -> list[str]:
    """What contradicts itself in the variables of this process, one line each."""
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
            f"RANK={rank} with WORLD_SIZE={size}: ranks go from 0 to {size - 1}; the launcher counts wrong, "
            "or one of them was set by hand"
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
