"""`make soak`: inject faults for an hour and put what happened into docs/reliability.md.

    PYTHONPATH=.:tests python tests/soak/run_all.py [NAME ...]

Each part is a script beside this one that prints its table and ends with status 1 when something was lost. In
the document it owns the block between its two markers.
"""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmark.run_all import replace_block

DOCUMENT = Path("docs/reliability.md")
FOLDER = Path(__file__).parent
NAMES = ("kills", "hangs", "configurations")


def main() -> int:
    """One part after the other; the status is 1 if any of them failed."""
    wanted = sys.argv[1:] or NAMES
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; there are {', '.join(NAMES)}")
    Path("outputs/soak").mkdir(parents=True, exist_ok=True)
    failed = []
    for name in wanted:
        sys.stderr.write(f"{name} ...\n")
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        sys.stdout.write(done.stdout)
        if done.returncode:
            failed.append(name)
            continue
        when = datetime.now(UTC).date()
        machine = f"{os.cpu_count()} x {platform.processor() or platform.machine()} cores"
        content = f"`make soak ARGS={name}`, {when}, {machine}.\n\n{done.stdout.strip()}"
        DOCUMENT.write_text(replace_block(DOCUMENT.read_text(), name, content))
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
