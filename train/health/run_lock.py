"""Allows one job at a time on a run's folder: two would overwrite each other's checkpoints and logs.

The lock is a file lock (flock), which is released whenever its process ends. A network file system may take
a minute or two to notice that a host is gone, so this waits longer for a lock of another host.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

# Seconds to wait for a process of this host that is ending, and for a lock of another host to expire.
_HERE, _ELSEWHERE = 15.0, 150.0


def hold_run(folder: Path, tell: Callable[[str], None]) -> TextIO | None:
    """Locks the run for as long as the returned file is open.

    Returns None if the folder cannot be written, or if the file system has no locks; the latter is reported by `tell`.

    Raises:
        ValueError: another job holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "run.lock").open("a+")
    except OSError:
        return None  # the preflight reports a folder that cannot be written
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = _holder(folder / "run.lock")
            here = holder.get("host") == socket.gethostname()
            if time.monotonic() - started > (_HERE if here else _ELSEWHERE):
                raise ValueError(
                    f"{folder}: process {holder.get('process')} on {holder.get('host')} is at work on this run "
                    f"since {holder.get('since')}; wait for its end, stop it, or choose another run_name"
                ) from None
            time.sleep(0.5)
        except OSError as error:
            tell(
                f"warning: {folder}: the file system has no locks ({error.strerror}), so a second job could "
                "overwrite this run; start no second one with this run_name"
            )
            file.close()
            return None
    file.truncate(0)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": since}))
    file.flush()
    return file


def _holder(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
