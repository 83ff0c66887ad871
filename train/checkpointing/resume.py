"""Verifies the checkpoint to resume from: the newest undamaged one of the run, or the one that is named.

Damaged checkpoints of the run are renamed and reported, and the one before is used.
"""

from collections.abc import Callable
from pathlib import Path

from parallel.checkpoint.index import DamagedCheckpoint
from parallel.mesh import Mesh
from train.checkpointing import folder as checkpoint_folder
from train.checkpointing.checkpoint import verify

Find = Callable[[], Path | None]
Tell = Callable[[str], None]


def sound_checkpoint(find: Find, own: Path, mesh: Mesh, tell: Tell) -> Path | None:
    """Returns the checkpoint that `find` returns on the main rank, verified; None if there is none. Collective.

    own: the folder of the run's checkpoints. A damaged one in it is renamed, and `find` is called again.

    Raises:
        DamagedCheckpoint: on every rank: a checkpoint outside `own` is damaged.
        ValueError: on every rank, why there is no checkpoint to resume from.
    """
    damage: list[str] = []
    first = 0
    while True:
        path = _found(find, mesh, damage)
        if path is None:
            break
        try:
            verify(path, mesh, tell)
        except DamagedCheckpoint as error:
            if path.parent.resolve() != own.resolve():
                raise DamagedCheckpoint(
                    f"{error}; name another with checkpoint.resume=DIR"
                ) from None
            first = first or checkpoint_folder.step_of(path)
            damage.append(f"{error}, kept as {_set_aside(path, mesh).name}")
            continue
        break
    if mesh.is_main:
        _tell_what_happened(path, own, damage, first, tell)
    return path


def _found(find: Find, mesh: Mesh, damage: list[str]) -> Path | None:
    def ask() -> Path | None:
        if not mesh.is_main:
            return None
        try:
            return find()
        except ValueError as error:
            raise ValueError("; ".join([*damage, str(error)])) from None

    found: Path | None = mesh.broadcast_object(mesh.together(ask))
    return found


def _set_aside(path: Path, mesh: Mesh) -> Path:
    kept: Path = mesh.broadcast_object(
        mesh.together(lambda: checkpoint_folder.set_aside(path) if mesh.is_main else path)
    )
    return kept


def _tell_what_happened(
    path: Path | None, own: Path, damage: list[str], first: int, tell: Tell
) -> None:
    if damage:
        assert path is not None, "`find` refuses where checkpoints were"
        again = f"{first - checkpoint_folder.step_of(path):,} steps are done again"
        tell(f"warning: {'; '.join(damage)}; going on from {path.name}: {again}")
    elif problem := checkpoint_folder.pointer_problem(own):
        tell(
            f"warning: {problem}; {path.name if path else 'nothing'} was found by looking at the folder"
        )
