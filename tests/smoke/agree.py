"""Whether two runs agree: `python tests/smoke/agree.py RUN_FOLDER RUN_FOLDER`; exits 1 and says where not.

Same steps, exactly the same valid tokens and tokens seen, and losses to 1e-5 relative: what two float32 runs
of one configuration in different layouts owe each other.
"""

import json
import math
import sys
from pathlib import Path

EXACT = ("step", "stage", "tokens_seen", "valid_tokens", "learning_rate")
RELATIVE = 1e-5


def main() -> None:
    """Compare row by row."""
    first, second = (
        [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        for folder in sys.argv[1:3]
    )
    if len(first) != len(second) or not first:
        sys.exit(f"{len(first)} and {len(second)} steps")
    worst = worst_norm = 0.0
    for one, other in zip(first, second, strict=True):
        for key in EXACT:
            if one[key] != other[key]:
                sys.exit(f"step {one['step']}: {key} is {one[key]} and {other[key]}")
        if not math.isclose(one["loss"], other["loss"], rel_tol=RELATIVE):
            sys.exit(f"step {one['step']}: losses {one['loss']} and {other['loss']}")
        worst = max(worst, abs(one["loss"] / other["loss"] - 1.0))
        norm = abs(one["gradient_norm"] / other["gradient_norm"] - 1.0)
        worst_norm = max(worst_norm, norm)
    sys.stdout.write(
        f"{len(first)} steps agree, losses to {worst:.1e} relative (gradient norms: {worst_norm:.1e})\n"
    )


if __name__ == "__main__":
    main()
