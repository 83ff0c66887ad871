"""Two virtual nodes without Slurm: launch/deepspeed.sh over ssh, launch/torchrun.sh over a link that is cut."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.smoke.cluster import Cluster, wait_until
from tests.smoke.command import ROOT, hostile_folder, rows

pytestmark = pytest.mark.cluster

STEPS, EVERY = 120, 5
# Seconds; the run has to end within twice as many.
TIMEOUT = 10.0
EXACT = ("step", "loss", "gradient_norm", "tokens_seen", "valid_tokens", "learning_rate")
# What a remote shell, pdsh or DeepSpeed could take apart.
ODD_WORDS = 'it\'s {one,two} $HOME "x" 100 %n ~ ; &'


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def arguments(small_run: Any, outputs: Path) -> Callable[..., list[str]]:
    """Arguments of the same run by another name."""

    def make(name: str, **changes: str) -> list[str]:
        tokens = {f"schedule.stages.{stage}.tokens": "30720" for stage in ("first", "second")}
        return small_run(
            outputs, run_name=name, **tokens, **{"checkpoint.every_steps": str(EVERY)}, **changes
        )

    return make


@pytest.fixture(scope="module")
def straight(
    cluster: Cluster, outputs: Path, arguments: Callable[..., list[str]]
) -> list[dict[str, Any]]:
    """Rows of a run on both nodes, by the launcher of DeepSpeed."""
    hostfile = outputs / "hostfile"
    hostfile.write_text("# two nodes\n\nn1 slots=1\nn2 slots=1\n")
    words = arguments("straight", **{"paths.outputs": json.dumps(str(outputs / ODD_WORDS))})
    launcher = [str(ROOT / "launch/deepspeed.sh"), "--hostfile", "../hostfile", "--"]
    # The launcher puts the folder where it is started first on every node's PYTHONPATH.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hostile_folder(outputs / "mine"))
        done = cluster.run("n1", *launcher, *words, timeout=300)
    assert done.returncode == 0, done.stderr
    return rows(outputs / ODD_WORDS, "straight")


def test_the_launcher_of_deepspeed_reaches_both_nodes_and_hands_on_odd_words(
    straight: list[dict[str, Any]], outputs: Path
) -> None:
    assert len(straight) == STEPS
    for rank, node in enumerate(("n1", "n2")):
        said = (outputs / ODD_WORDS / f"straight/ranks/rank_{rank:05d}.log").read_text()
        assert f"rank {rank} on {node}," in said
    config = yaml.safe_load((outputs / ODD_WORDS / "straight/config.yaml").read_text())
    assert config["paths"]["outputs"] == str(outputs / ODD_WORDS)


def test_ropewalk_deepspeed_reaches_both_nodes_too(
    cluster: Cluster,
    straight: list[dict[str, Any]],
    outputs: Path,
    arguments: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = arguments("'a b'", **{"paths.outputs": "../runs"})
    monkeypatch.chdir(outputs / "mine")
    (outputs / "mine/.deepspeed_env").write_text("OMP_NUM_THREADS=1\nGLOO_SOCKET_IFNAME=eth0\n")
    launcher = [sys.executable, str(ROOT / "launch/ropewalk.py"), "deepspeed"]
    options = ["--hostfile=../hostfile", "--master_addr=n1"]
    done = cluster.run("n1", *launcher, *options, "--", *words, timeout=300)
    assert done.returncode == 0, done.stderr
    found = rows(outputs / "runs", "a b")
    for key in EXACT:
        assert [row[key] for row in found] == [row[key] for row in straight], key


class Launched:
    """launch/torchrun.sh on both nodes."""

    def __init__(self, cluster: Cluster, arguments: list[str]) -> None:
        launcher = ["launch/torchrun.sh", "--nodes", "2", "--head", "n1", "--restarts", "0", "--"]
        self.processes = {
            node: subprocess.Popen(
                cluster.command(node, *launcher, *arguments),
                env=cluster.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node in cluster.nodes
        }

    def end(self, node: str, seconds: float) -> tuple[int, str]:
        """Wait for the launcher on `node`: its status and what it said."""
        said, _ = self.processes[node].communicate(timeout=seconds)
        return self.processes[node].returncode, said


def test_a_cut_link_is_named_and_ends_the_run_which_goes_on_when_it_is_plugged_in(
    cluster: Cluster,
    straight: list[dict[str, Any]],
    outputs: Path,
    arguments: Callable[..., list[str]],
) -> None:
    words = arguments("cut", **{"parallel.timeout_seconds": str(TIMEOUT)})
    launched = Launched(cluster, words)
    metrics = outputs / "cut/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 20, 240, "step 20")
    cluster.cut("n2")
    cut_at = time.monotonic()
    status, said = launched.end("n1", 2 * TIMEOUT)
    assert status != 0
    # Whichever wait is the oldest: the step's own, or that of the checkpoint being written beside it.
    named = (
        r"rank 0 on n1 has waited \d+ s in \w+ on axis (data|checkpoint|control) \(ranks 0-1\), .*; "
        r"no sign of life from rank 1 on n2 "
    )
    assert re.search(named, said), said
    log = (outputs / "cut/ranks/rank_00001.log").read_text
    process = re.findall(r"rank 1 on n2, process (\d+)", log())[-1]
    alive = ["grep", "-qs", "^State:.[^Z]", f"/proc/{process}/status"]
    left = cut_at + 2 * TIMEOUT - time.monotonic()
    wait_until(lambda: cluster.run("n2", *alive).returncode != 0, left, "the end of rank 1")
    assert "the store of the run does not answer: rank 0's host is" in log()
    # The launcher on n2 asks the store on n1 for a minute before it ends, too.
    cluster.run("n2", "pkill", "-KILL", "-f", "launch/agent.py")
    launched.end("n2", 10)
    done = len(rows(outputs, "cut"))
    assert 20 <= done < STEPS
    cluster.plug("n2")
    again = Launched(cluster, words)
    ends = {node: again.end(node, 240) for node in cluster.nodes}
    assert all(status == 0 for status, _ in ends.values()), ends
    resumed = re.search(
        r"going on from \S+: step (\d+)", "".join(said for _, said in ends.values())
    )
    assert resumed and done - int(resumed[1]) <= EVERY
    found = rows(outputs, "cut")
    for key in EXACT:
        assert [row[key] for row in found] == [row[key] for row in straight], key
