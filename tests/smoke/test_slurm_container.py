"""launch/slurm.sh with containers: ranks train in the image of launch/container.py, and signals reach them there.

pyxis, enroot and apptainer are stand-ins (stand_ins.py); Slurm, the image and the runs are real.
"""

import shutil
from pathlib import Path

import pytest

from tests.smoke.cluster import SEARCHED, Cluster
from tests.smoke.command import rows
from tests.smoke.container_root import ContainerRoot
from tests.smoke.stand_ins import put_stand_ins
from tests.smoke.submitted import STEPS, Straight, Submitted, same

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("kind", ["apptainer", "enroot", "pyxis"])
def test_ranks_train_in_a_container_and_signals_reach_them(
    cluster: Cluster,
    container_root: ContainerRoot,
    straight: Straight,
    tmp_path: Path,
    kind: str,
) -> None:
    expected, outputs, arguments = straight
    programs = tmp_path / "programs"
    put_stand_ins(programs, str(shutil.which("srun", path=SEARCHED)))
    settings = {
        "PATH": f"{programs}:{SEARCHED}",
        "CONTAINER": kind,
        "CONTAINER_IMAGE": str(container_root.folder),
        # Outputs and token files.
        "CONTAINER_MOUNTS": str(outputs.parent),
        "CONTAINER_PYTHON": "/opt/ropewalk/.venv/bin/python",
    }
    job = Submitted(cluster, outputs / kind, arguments(kind), **settings)
    job.wait_for_step(10)
    # Save and go on in a requeued job, as at the time limit; or save and end for good.
    goes_on = kind == "apptainer"
    cluster.must(
        "login", "scancel", "--batch", f"--signal={'USR1' if goes_on else 'USR2'}", job.number
    )
    ended = job.ended()
    found = rows(outputs, kind)
    if goes_on:
        assert ended == [("COMPLETED", "0:0", "1")], job.log
        same(expected, found)
    else:
        assert ended == [("FAILED", "75:0", "0")], job.log
        assert 10 <= len(found) < STEPS
        assert f"saved at step {len(found)}," in job.log
        for key in ("loss", "gradient_norm"):
            assert [row[key] for row in found] == [row[key] for row in expected[: len(found)]]
    preflight = (outputs / kind / "preflight.txt").read_text()
    assert "n1" in preflight and "n2" in preflight
