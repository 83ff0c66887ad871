"""Copies the files of an imported model other than weights: tokenizer, chat template, licence.

    MODEL/tokenizer.json, LICENSE, ...  -> imported/huggingface/     import
    imported/huggingface/               -> outputs/RUN/huggingface/  when a run starts from such a checkpoint
    outputs/RUN/huggingface/            -> step_NNNNNNNN/huggingface/  in every checkpoint of the run
    step_NNNNNNNN/huggingface/          -> the exported folder

config.json is kept too, because it may be the only file that names a tokenizer's end token; it is not exported.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from data.files import write_durably

KEPT = "huggingface"
# Files that a tokenizer may consist of.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_LEGAL = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def tokenizers_in(folder: Path) -> list[Path]:
    """Returns the files of a folder that each hold a complete tokenizer."""
    return [folder / name for name in _TOKENIZERS if (folder / name).is_file()]


def exported_files(folder: Path) -> list[Path]:
    """Returns the files of a folder that go into an exported model."""
    legal = {path for pattern in _LEGAL for path in folder.glob(pattern)}
    named = [folder / name for name in TOKENIZER_FILES]
    return [path for path in (*named, *sorted(legal)) if path.is_file()]


def keep(model: Path, checkpoint: Path) -> None:
    """Copies these files from a model's folder into a checkpoint that is being made."""
    copy([*exported_files(model), model / "config.json"], checkpoint / KEPT)


def carry(source: Path, target: Path) -> None:
    """Copies the kept files of `source`, if any, into `target`: both are checkpoints or folders of runs."""
    if (source / KEPT).is_dir():
        copy(sorted(path for path in (source / KEPT).iterdir() if path.is_file()), target / KEPT)


def carry_into_run(checkpoint: Path | None, run: Path) -> None:
    """Replaces the kept files of a run by those of the checkpoint that it starts from."""
    shutil.rmtree(run / KEPT, ignore_errors=True)
    if checkpoint is not None:
        carry(checkpoint, run)


def copy(files: Iterable[Path], folder: Path) -> None:
    """Copies files into a folder, durably."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        write_durably(folder / file.name, file.read_bytes())
