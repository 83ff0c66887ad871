"""Which checkpoint a run goes on from: the newest of its own that is whole, or the one that is named.

Damaged ones are set aside and named, and the one before is taken.
"""

from collections.abc import Callable
from pathlib import Path

from parallel.checkpoint.index import DamagedCheckpoint
from parallel.mesh import Mesh
from train.checkpointing import folder as checkpoint_folder
from train.checkpointing.checkpoint import verify
from train.checkpointing.locate import locate
from train.configuration.schema import RunConfig, run_folder

Find = Callable[[], Path | None]
Tell = Callable[[str], None]


def find_resume(config: RunConfig) -> Path | None:
    """The checkpoint to go on from, if any: the run's own newest one before any that is named.

    Raises:
        ValueError: `checkpoint.resume` is never, or an older checkpoint of the same run, while the run's
            folder holds results that would be overwritten; or all of the run's checkpoints are gone; or what
            is named is no checkpoint.
    """
    folder, wanted = run_folder(config), config.checkpoint.resume
    own = checkpoint_folder.latest(folder / "checkpoints")
    if own is None and checkpoint_folder.had_any(folder / "checkpoints"):
        raise ValueError(
            f"{folder}/checkpoints: no complete checkpoint is left there; put one back, start a new run "
            "from another with run_name=NAME checkpoint.resume=DIR, or remove that folder to start anew"
        )
    if wanted == "never" and (folder / "metrics.jsonl").exists():
        raise ValueError(
            f"checkpoint.resume=never: {folder} holds a run already; choose another run_name, go on "
            "with checkpoint.resume=auto, or remove the folder"
        )
    if wanted in ("auto", "never"):
        return own
    if own is None:
        try:
            return locate(Path(wanted))
        except ValueError as error:
            raise ValueError(f"checkpoint.resume={error}") from None
    newest = {path.resolve() for path in (own, own.parent, own.parent / checkpoint_folder.LATEST)}
    named = Path(wanted).resolve()
    if folder.resolve() in named.parents and named not in newest:
        raise ValueError(
            f"checkpoint.resume={wanted}: {config.run_name} has gone on to {own.name}; choose another "
            "run_name to branch off, or checkpoint.resume=auto to go on"
        )
    return own


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
