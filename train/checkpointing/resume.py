"""Which checkpoint a run goes on from: the newest of its own that is whole, or the one that is named.

Damaged ones are set aside and named, and the one before is taken.
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
    """What `find`, asked on the main rank, gives and verification passes; None where it finds none. Collective.

    own: the run's checkpoints. A damaged one of them is renamed and `find` asked again; any other is refused.

    Raises:
        ValueError: on every rank, why there is nothing to go on from.
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
