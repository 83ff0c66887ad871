"""The embedded corpus of the quickstart: the Python standard library's own source files.

It needs no download. It has about 1,800 documents and 31 MB where the library's tests are
installed, fewer where a distribution leaves them out.
"""

import hashlib
import json
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_python_version

from data.files import write_durably
from data.formats.readers import read_documents
from data.formats.records import Document, Fields
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.tokenizer.sentencepiece_model import Tokenizer
from data.tokenizer.training import train_on_files
from data.tokens.manifest import Manifest, OtherVersion, verify
from data.tokens.prefix import manifest_path

NAME = "python_stdlib"
SKIPPED_FOLDERS = frozenset({"__pycache__", "dist-packages", "site-packages"})
HELDOUT_FRACTION = 0.03
SAMPLE_BYTES = 6_000_000


@dataclass(frozen=True)
class PreparedCorpus:
    """Paths of the quickstart's files: the tokenizer, and the prefixes of training and held-out token files."""

    tokenizer: str
    train: str
    heldout: str


def quickstart_folder(corpus: str, directory: str | Path, vocab_size: int) -> Path:
    """The folder of an embedded corpus below `directory`."""
    return Path(directory) / f"{corpus}-{get_python_version()}-{vocab_size}"


def quickstart_files(folder: Path) -> PreparedCorpus:
    """The paths of the quickstart's files in `folder`."""
    return PreparedCorpus(
        tokenizer=str(folder / "tokenizer.model"),
        train=str(folder / "train"),
        heldout=str(folder / "heldout"),
    )


def stdlib_documents() -> list[str]:
    """The library's .py files that are valid UTF-8 and not empty, in a fixed order."""
    root = sysconfig.get_path("stdlib")
    files: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        files += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]  # noqa: PTH118
    return [path for path in files if _is_document(path)]


def _is_document(path: str) -> bool:
    return all(isinstance(record, Document) for record in read_documents([path], fields=Fields("")))


def prepare_quickstart(
    output_dir: str | Path,
    vocab_size: int,
    *,
    workers: int = 2,
    heldout_fraction: float = HELDOUT_FRACTION,
    show_progress: bool = True,
) -> PreparedCorpus:
    """Train a tokenizer and make training and held-out token files, unless they are complete already.

    Raises ValueError for damaged files, an impossible vocabulary size, or a full disk.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = quickstart_files(folder)
    for prefix in (corpus.train, corpus.heldout):
        if manifest_path(prefix).is_file():
            _refuse_damage(prefix, folder)
    files = stdlib_documents()
    recipe = {"vocab_size": vocab_size, "sample_bytes": SAMPLE_BYTES, "files": _identities(files)}
    _make_tokenizer(corpus.tokenizer, files, recipe, show_progress)
    prepare(
        PrepareOptions(
            inputs=tuple(files),
            output=corpus.train,
            tokenizer=corpus.tokenizer,
            workers=workers,
            on_error="skip",
            heldout_output=corpus.heldout,
            heldout_fraction=heldout_fraction,
            overwrite=True,  # another Python has other sources
            show_progress=show_progress,
        )
    )
    return corpus


def _refuse_damage(prefix: str, folder: Path) -> None:
    """Raises ValueError for files that changed after they were made, instead of replacing them silently."""
    try:
        verify(prefix)
    except OtherVersion:
        pass  # not damaged; made again
    except ValueError as error:
        raise ValueError(f"{error}. Or remove {folder}: the next run makes it anew") from error


def _identities(files: list[str]) -> str:
    digest = hashlib.sha256()
    for name in files:
        status = Path(name).stat()
        digest.update(json.dumps((name, status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


def _make_tokenizer(path: str, files: list[str], recipe: Manifest, show_progress: bool) -> None:
    """Train unless `path` was made with the same recipe and is unchanged."""
    record = Path(f"{path}.json")
    if Path(path).is_file() and record.is_file():
        try:
            made = json.loads(record.read_text())
            if made == {**recipe, "sha256": Tokenizer(path).sha256}:
                return
        except ValueError:
            pass
    tokenizer = train_on_files(
        files,
        path,
        recipe["vocab_size"],
        sample_bytes=recipe["sample_bytes"],
        on_error="skip",
        show_progress=show_progress,
    )
    made = {**recipe, "sha256": tokenizer.sha256}
    write_durably(record, json.dumps(made, indent=1).encode() + b"\n")
