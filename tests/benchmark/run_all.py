"""`make benchmark`: run every measurement and put what it prints into docs/benchmarks.md.

    PYTHONPATH=.:tests python tests/benchmark/run_all.py [NAME ...]

Each measurement is a script beside this one that prints its table and writes
`outputs/benchmarks/NAME.json`. In the document it owns the block between its two markers; the words
around the blocks are written by hand and stay.
"""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

DOCUMENT = Path("docs/benchmarks.md")
FOLDER = Path(__file__).parent
NAMES = (
    "attention",
    "packing",
    "huggingface",
    "step_profile",
    "resume",
    "deterministic",
    "traffic",
    "balance",
    "ring_side_by_side",
    "overlap",
    "sequence_memory",
    "ring_error",
    "pipeline_bubble",
    "olmo",
    "huggingface_convert",
)


def measure(name: str) -> str:
    """What the script `name` prints; its progress goes to the terminal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with the block of `name` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = f"{begin}\n{content}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{DOCUMENT}: has no block {begin}; add both markers")
    return pattern.sub(lambda _: block, text)


def main() -> None:
    """Measure, one after the other: they would disturb each other."""
    unknown = [name for name in sys.argv[1:] if name not in NAMES]
    if unknown:
        sys.exit(f"no measurement {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in sys.argv[1:] or NAMES:
        sys.stderr.write(f"measuring {name}\n")
        printed = measure(name)
        sys.stdout.write(printed)
        when = datetime.now(UTC).strftime("%Y-%m-%d")
        stamp = (
            f"`make benchmark ARGS={name}`, {when}, {os.cpu_count()} x {platform.machine()} cores."
        )
        content = f"{stamp}\n\n```\n{printed.rstrip()}\n```"
        DOCUMENT.write_text(replace_block(DOCUMENT.read_text(), name, content))


if __name__ == "__main__":
    main()
