"""The virtual cluster, one for a file of tests; a root with the container's recipe done in it, one for all."""

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.smoke import container_root as image
from tests.smoke.cluster import Cluster, why_not
from tests.smoke.command import rows, run
from tests.smoke.submitted import Straight

# What launch/cluster.env says otherwise.
SETTINGS = {
    "PYTHON": sys.executable,
    "NODES": "2",
    "RANKS_PER_NODE": "1",
    "GPUS_PER_NODE": "0",
    "CPUS_PER_RANK": "1",
    "TIME_LIMIT": "20",
    "NETWORK_INTERFACE": "eth0",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, with the settings that launch/ reads from the environment; skipped where there can be none."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
    except (TimeoutError, OSError) as error:
        pytest.skip(f"the cluster does not come up ({error}); its logs: {cluster.folder}/log")
    cluster.environment |= SETTINGS
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def container_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[image.ContainerRoot]:
    """The image of launch/container.py as a folder; skipped where Debian's packages cannot be had."""
    reason = image.why_not()
    if reason:
        pytest.skip(reason)
    root = image.ContainerRoot(tmp_path_factory.mktemp("image") / "root")
    try:
        root.make()
    except OSError as error:
        pytest.skip(f"no packages of Debian: {error}")
    yield root
    shutil.rmtree(root.folder)


@pytest.fixture(scope="session")
def straight(small_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Rows of a run that nothing disturbed, on two ranks under torchrun; outputs; arguments for the same again."""
    outputs = tmp_path_factory.mktemp("outputs")

    def arguments(name: str) -> list[str]:
        quoted = json.dumps(name)
        changes = {"checkpoint.every_steps": "5", "logging.wandb.mode": "offline"}
        tokens = {f"schedule.stages.{stage}.tokens": "30720" for stage in ("first", "second")}
        return small_run(outputs, run_name=quoted, **changes, **tokens)

    finished = run(2, arguments("straight"))
    assert finished.returncode == 0, finished.stderr
    return rows(outputs, "straight"), outputs, arguments
