"""Ten times the drawn configurations of `make test`, other ones every time.

    PYTHONPATH=.:tests python tests/soak/configurations.py

Every draw and its near misses are judged by a rule of the tests' own and by the product; legal ones run a
step in each of their stages. What pytest says of a failure names the draw.
"""

import subprocess
import sys
import time

JUDGED = "tests/unit/test_config_properties.py"
RUN = "tests/parity/test_legal_configurations.py"


def main() -> int:
    """Run both, say how it went."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--hypothesis-profile=soak", JUDGED, RUN],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stdout.write(done.stdout)
        return 1
    minutes = (time.monotonic() - started) / 60
    sys.stdout.write(
        f"Some 1,200 draws with their near misses judged alike by the rule and the product, 40 % or more legal; "
        f"240 legal runs, each of which took a step in every stage; {minutes:.0f} minutes.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
