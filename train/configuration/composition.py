"""Composes one tree of values, by Hydra, from the files that `Gathering` has read.

Hydra reads no configuration file itself. It receives their contents in memory, so that no search path, plugin or
link leads it to other files.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from train.configuration.groups import ROOT_FILE, GroupFile
from train.configuration.library_errors import UNCOMPOSABLE, words_of


def composed_tree(
    files: Sequence[GroupFile], choices: Mapping[str, GroupFile]
) -> tuple[Any, list[GroupFile]]:
    """Returns the tree of the root file with these choices, and its files; later files override earlier ones.

    files: all files that may be chosen.

    Raises:
        ValueError: the files cannot be composed; one line.
    """
    overrides = [f"{group}='{file.name}'" for group, file in choices.items()]
    try:
        with _in_memory(files), initialize(config_path=None, version_base="1.3"):
            for resolver in ("oc.env", "now"):  # a choice of a group may not use them either
                OmegaConf.clear_resolver(resolver)
            tree = compose(ROOT_FILE, overrides=overrides, return_hydra_config=True)
    except UNCOMPOSABLE as error:
        asked = " ".join(file.given for file in choices.values()) or "conf/config.yaml"
        raise ValueError(f"{asked}: {words_of(error)}; mend the file") from None
    OmegaConf.set_struct(tree, False)
    chosen: Any = OmegaConf.to_container(tree.hydra.runtime.choices)
    del tree["hydra"]
    used = [file for file in files if _is_in(file, files, chosen)]
    return tree, sorted(used, key=lambda file: file.group == "experiment")


def tree_of_one(file: GroupFile) -> Any:
    """Returns the tree of a file that holds a whole configuration.

    Raises:
        ValueError: its values cannot be read; one line.
    """
    try:
        return OmegaConf.create(file.content)
    except UNCOMPOSABLE as error:
        raise ValueError(f"{file.given}: {words_of(error)}; mend the file") from None


def _is_in(file: GroupFile, files: Sequence[GroupFile], chosen: Mapping[str, Any]) -> bool:
    """Whether a file is chosen, or a chosen file of its group has it in its `defaults:`."""
    if not file.group or chosen.get(file.group) == file.name:
        return True
    return any(
        other.group == file.group and file.name in other.defaults and _is_in(other, files, chosen)
        for other in files
    )


@contextmanager
def _in_memory(files: Sequence[GroupFile]) -> Iterator[None]:
    """Puts these files into Hydra's ConfigStore for the duration of the block."""
    store = ConfigStore.instance()
    before = store.repo
    store.repo = dict(before)
    try:
        for file in files:
            node = {"defaults": list(file.defaults), **file.content}
            package = file.package or "_global_"
            store.store(file.name, node, group=file.group or None, package=package)
        yield
    finally:
        store.repo = before
