"""`make benchmark`: run every measurement and put what it prints into docs/benchmarks.md.

    PYTHONPATH=.:tests python tests/benchmark/run_all.py [NAME ...]

Each measurement is a script beside this one that prints its table and writes
`outputs/benchmarks/NAME.json`. In the document it owns the block between its two markers; the words
around the blocks are written by hand and stay.

A script with a function `table(numbers)` makes its table of the numbers in its JSON alone. These numbers are committed
too, as `docs/benchmarks/NAME.json` with the line above the table, and tests/unit/test_benchmark_tables.py compares
the document with them.
"""

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

DOCUMENT = Path("docs/benchmarks.md")
FOLDER = Path(__file__).parent
RECORDS = Path("docs/benchmarks")
NAMES = (
    "attention",
    "packing",
    "generated",
    "huggingface",
    "step_profile",
    "attention_forms",
    "resume",
    "deterministic",
    "traffic",
    "chunk_traffic",
    "balance",
    "ring_side_by_side",
    "overlap",
    "sequence_memory",
    "evaluation_speed",
    "ring_error",
    "pipeline_bubble",
    "huggingface_convert",
    "long_perplexity",
)
# Run by name only: they need what `make setup` does not install.
OPTIONAL = ("llama_cpp_logits",)


def measure(name: str) -> str:
    """What the script `name` prints; its progress goes to the terminal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def module(name: str) -> ModuleType:
    """The script `name`, imported."""
    specification = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert specification is not None and specification.loader is not None
    loaded = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(loaded)
    return loaded


def content(stamp: str, printed: str) -> str:
    """What stands between the markers."""
    return f"{stamp}\n\n```\n{printed.rstrip()}\n```"


def keep_numbers(name: str, stamp: str) -> None:
    """Commit what was measured beside the document, if the table is made of it."""
    if hasattr(module(name), "table"):
        numbers = json.loads(Path(f"outputs/benchmarks/{name}.json").read_text())
        RECORDS.mkdir(exist_ok=True)
        record = {"stamp": stamp, "numbers": numbers}
        (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def replace_block(text: str, name: str, new: str) -> str:
    """`text` with the block of `name` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = f"{begin}\n{new}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{DOCUMENT}: has no block {begin}; add both markers")
    return pattern.sub(lambda _: block, text)


def main() -> None:
    """Measure, one after the other: they would disturb each other."""
    known = (*NAMES, *OPTIONAL)
    unknown = [name for name in sys.argv[1:] if name not in known]
    if unknown:
        sys.exit(f"no measurement {', '.join(unknown)}; there are {', '.join(known)}")
    for name in sys.argv[1:] or NAMES:
        sys.stderr.write(f"measuring {name}\n")
        printed = measure(name)
        sys.stdout.write(printed)
        when = datetime.now(UTC).strftime("%Y-%m-%d")
        stamp = (
            f"`make benchmark ARGS={name}`, {when}, {os.cpu_count()} x {platform.machine()} cores."
        )
        keep_numbers(name, stamp)
        text = replace_block(DOCUMENT.read_text(), name, content(stamp, printed))
        DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
