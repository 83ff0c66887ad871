"""A run that was submitted to the virtual cluster, and the same run without a disturbance to compare it with."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.smoke.cluster import Cluster, wait_until
from tests.smoke.command import ROOT

STEPS = 120
EXACT = ("step", "loss", "gradient_norm", "tokens_seen", "valid_tokens", "learning_rate")
# Arguments of the run under another name.
Arguments = Callable[..., list[str]]
Straight = tuple[list[dict[str, Any]], Path, Arguments]


class Submitted:
    """A job or a chain, and the run it makes."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        arguments: list[str],
        options: Sequence[str] = (),
        **settings: str,
    ) -> None:
        """folder: the run's; settings: of launch/cluster.env."""
        set_here = [f"{key}={value}" for key, value in settings.items()]
        words = ["env", *set_here, str(ROOT / "launch/slurm.sh"), *options, "--", *arguments]
        found = re.search(r"submitted job (\d+)", cluster.must("login", *words))
        assert found
        self.number, self.folder, self._cluster = found[1], folder, cluster

    def wait_for_step(self, step: int) -> None:
        """Until `step` is in the metrics."""
        metrics = self.folder / "metrics.jsonl"
        self.wait(
            lambda: metrics.exists() and metrics.read_text().count("\n") >= step, f"step {step}"
        )

    def ended(self) -> list[tuple[str, str, str]]:
        """State, exit code and number of requeues of the job, or of each link; waits until none can go on."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait(
            lambda: all(row["JobState"] in over for row in self._show()), f"job {self.number}"
        )
        return [(row["JobState"], row["ExitCode"], row["Restarts"]) for row in self._show()]

    def _show(self) -> list[dict[str, str]]:
        return self._cluster.job(self.number)

    def wait(self, true: Callable[[], bool], what: str) -> None:
        """Poll, and show the log if it takes too long."""
        try:
            wait_until(true, 240, what)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.log}") from error

    @property
    def log(self) -> str:
        """What all starts of the run said."""
        path = self.folder / "slurm.log"
        return path.read_text() if path.exists() else ""

    def wandb_ids(self) -> list[str]:
        """The id of every W&B session there is on the disk."""
        found = self.folder.glob("wandb/offline-run-*")
        return [path.name.rsplit("-", 1)[1] for path in found]


def same(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Bit for bit, and each step once."""
    assert len(found) == len(expected) == STEPS
    for key in EXACT:
        assert [row[key] for row in found] == [row[key] for row in expected], key
