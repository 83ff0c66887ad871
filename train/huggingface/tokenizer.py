"""Finds and writes the tokenizer of an exported model.

It must be the tokenizer that the corpus was made with, by the SHA-256 in the checkpoint's state. It is looked for in
this order: the option --tokenizer; the files of an imported model; beside the token files. If none of them has that
SHA-256, the export is refused. A SentencePiece model is converted (data/tokenizer/convert.py).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import write_durably
from data.printable import one_line
from data.sources import corpus_prefixes
from data.tokenizer.any_tokenizer import TextTokenizer, open_tokenizer
from data.tokenizer.convert import SOURCE, tokenizer_files
from data.tokenizer.sentencepiece_model import Tokenizer
from data.tokenizer.tokenizer_json import JsonTokenizer
from data.tokens.manifest import load
from train.checkpointing.state import RunState
from train.configuration.compose import from_yaml
from train.configuration.schema import RunConfig
from train.huggingface.kept_files import KEPT, copy, exported_files, tokenizers_in

Json = dict[str, Any]
CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer's files come from; all fields are None for a model without a tokenizer.

    folder: its files are copied under their names. end_token: the end-of-document token; None if unknown.
    """

    tokenizer: TextTokenizer | None = None
    folder: Path | None = None
    end_token: int | None = None

    def write(self, target: Path, context_length: int) -> None:
        """Writes the tokenizer's files into the folder `target`."""
        if self.folder is not None:
            copy(exported_files(self.folder), target)
        elif isinstance(self.tokenizer, Tokenizer):
            for name, content in tokenizer_files(self.tokenizer, context_length).items():
                write_durably(target / name, content)
            # llama.cpp builds its own vocabulary from this file, with the same ids.
            write_durably(target / "tokenizer.model", self.tokenizer.path.read_bytes())
        elif self.tokenizer is not None:  # a tokenizer.json, whatever its name
            write_durably(target / "tokenizer.json", self.tokenizer.path.read_bytes())
        if isinstance(self.tokenizer, JsonTokenizer) and not (target / CONFIG).is_file():
            write_durably(target / CONFIG, _minimal_config(self.tokenizer, context_length))
        _raise_length(target / CONFIG, context_length)

    def other_bos(self, learned: Json) -> str:
        """Returns how this tokenizer's BOS token differs from that of the training documents; empty if it does not.

        learned: `tokenizer` of the state.
        """
        if self.tokenizer is None or "bos_id" not in learned:
            return ""
        is_converted = self.folder is None and isinstance(self.tokenizer, Tokenizer)
        adds = self.tokenizer.adds_bos and not is_converted
        own, trained = self.tokenizer.bos_id if adds else None, learned["bos_id"]
        if own == trained:
            return ""
        begins = "nothing" if own is None else f"token {own}"
        began = "nothing" if trained is None else f"token {trained}"
        return f"the exported tokenizer puts {begins} before a text, documents had {began} before them in training"


def _minimal_config(tokenizer: JsonTokenizer, context_length: int) -> str:
    """Returns a tokenizer_config.json for a tokenizer.json that comes without one."""
    end = tokenizer.piece(tokenizer.eos_id)
    config: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "model_max_length": context_length,
    }
    if tokenizer.bos_id is not None:
        config["bos_token"] = tokenizer.piece(tokenizer.bos_id)
    return json.dumps(config, indent=2)


def _raise_length(path: Path, context_length: int) -> None:
    """Raises `model_max_length` to the context length: otherwise texts are cut at the length before an extension."""
    if path.is_file():
        config = _settings(path)
        length = config.get("model_max_length")
        if isinstance(length, int) and length < context_length:
            write_durably(path, json.dumps(config | {"model_max_length": context_length}, indent=2))


def _settings(path: Path) -> Json:
    """Returns the object in a tokenizer_config.json; empty if it cannot be read."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def find_tokenizer(
    wanted: str, checkpoint: Path, state: RunState, vocab_size: int
) -> TokenizerSource:
    """Returns the tokenizer of a checkpoint. wanted: a file, a folder, "none", or empty for that of the corpus.

    Raises:
        ValueError: there is none, it is not the one of the corpus, or it has more tokens than the model.
    """
    if wanted == "none":
        return TokenizerSource()
    corpus = _of_corpus(checkpoint, state)
    if wanted:
        return _asked_for(Path(wanted), corpus, vocab_size)
    kept = checkpoint / KEPT
    if kept.is_dir():
        found = _opened(kept)
        if not corpus:  # as the imported model had it
            return _whole_folder(kept, found[:1])
        if same := [tokenizer for tokenizer in found if _forms(tokenizer) & corpus]:
            return _whole_folder(kept, same)
    for path in _beside_corpus(checkpoint):
        tokenizer = open_tokenizer(path)
        if _forms(tokenizer) & corpus:
            return _source(tokenizer, vocab_size)
    if state.tokenizer.get("generated"):
        return TokenizerSource(end_token=state.tokenizer["eos_id"])
    which = f"with SHA-256 {_short(corpus)}" if corpus else "of its corpus"
    raise ValueError(
        f"checkpoint={checkpoint}: a tokenizer {which} is neither in {KEPT}/ nor beside its token files; give "
        "--tokenizer PATH, or --tokenizer none"
    )


def tokenizer_facts(folder: Path) -> Json:
    """Returns the facts for a state about the tokenizer in a model's folder; empty if it cannot be opened.

    sha256: of the first form. alike: of its other forms. bos_id: the token before every text; None: none.
    """
    found = _opened(folder)
    if not found:
        return {}
    forms = {sha256 for tokenizer in found for sha256 in _forms(tokenizer)} - {found[0].sha256}
    facts: Json = {"sha256": found[0].sha256, "alike": sorted(forms)}
    bos_id = found[0].bos_id if found[0].adds_bos else None
    return facts | {"vocab_size": found[0].vocab_size, "eos_id": found[0].eos_id, "bos_id": bos_id}


def unopened_tokenizers(folder: Path) -> list[str]:
    """Returns a line for each tokenizer of a model's folder that is kept but cannot be opened, with the reason."""
    found = []
    for path in tokenizers_in(folder):
        try:
            open_tokenizer(path)
        except ValueError as error:
            found.append(f"{path.name} is kept, but cannot be opened here: {one_line(str(error))}")
    return found


def _forms(tokenizer: TextTokenizer) -> set[str]:
    """Returns the SHA-256 of a tokenizer, and of the SentencePiece model that it was converted from."""
    source = _settings(tokenizer.path.with_name(CONFIG)).get(SOURCE, "")
    is_converted = isinstance(tokenizer, JsonTokenizer) and isinstance(source, str) and source
    return {tokenizer.sha256, source} if is_converted else {tokenizer.sha256}


def _short(sha256: set[str]) -> str:
    return " or ".join(sorted(each[:12] for each in sha256))


def _asked_for(path: Path, corpus: set[str], vocab_size: int) -> TokenizerSource:
    found = [open_tokenizer(file) for file in (tokenizers_in(path) if path.is_dir() else [path])]
    if not found:
        raise ValueError(
            f"tokenizer={path}: has no tokenizer.json and no tokenizer.model; give a folder or file with one, or none"
        )
    same = [tokenizer for tokenizer in found if _forms(tokenizer) & corpus]
    if corpus and not same:
        raise ValueError(
            f"tokenizer={path}: its SHA-256 is {found[0].sha256[:12]}, the corpus was made with {_short(corpus)}; give "
            "the one that the corpus was made with, or none"
        )
    source = _source((same or found)[0], vocab_size)
    # A SentencePiece model alone in its folder is converted.
    if path.is_dir() and any((path / name).is_file() for name in ("tokenizer.json", CONFIG)):
        return TokenizerSource(source.tokenizer, path, source.end_token)
    return source


def _source(tokenizer: TextTokenizer, vocab_size: int) -> TokenizerSource:
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"tokenizer={tokenizer.path}: has {tokenizer.vocab_size} tokens, the model {vocab_size}; give the one it "
            "was trained with"
        )
    # Files beside a tokenizer of another name may belong to another tokenizer.
    whole = isinstance(tokenizer, JsonTokenizer) and tokenizer.path.name == "tokenizer.json"
    return TokenizerSource(tokenizer, tokenizer.path.parent if whole else None, tokenizer.eos_id)


def _whole_folder(folder: Path, found: list[TextTokenizer]) -> TokenizerSource:
    """Returns a source that copies a whole folder, even if only transformers can open its tokenizer."""
    return (
        TokenizerSource(found[0], folder, found[0].eos_id)
        if found
        else TokenizerSource(folder=folder)
    )


def _opened(folder: Path) -> list[TextTokenizer]:
    """Returns the tokenizers of a folder that can be opened."""
    found: list[TextTokenizer] = []
    for path in tokenizers_in(folder):
        try:
            found.append(open_tokenizer(path))
        except ValueError:  # names no end token, or only transformers supports its kind
            continue
    return found


def _of_corpus(checkpoint: Path, state: RunState) -> set[str]:
    """Returns the SHA-256 of each form of the tokenizer that the run's tokens were made with; empty if unknown."""
    known = [state.tokenizer.get("sha256", ""), *state.tokenizer.get("alike", [])]
    if not state.tokenizer:  # a checkpoint of an earlier version
        known = [str(described["tokenizer"]["sha256"]) for _, described in _manifests(checkpoint)]
    return {sha256 for sha256 in known if sha256}


def _beside_corpus(checkpoint: Path) -> list[Path]:
    """Returns files that have the name of the corpus's tokenizer."""
    return [
        folder / str(described["tokenizer"]["file"])
        for prefix, described in _manifests(checkpoint)
        for folder in (prefix.parent, Path())
        if (folder / str(described["tokenizer"]["file"])).is_file()
    ]


def _manifests(checkpoint: Path) -> list[tuple[Path, Json]]:
    """Returns prefixes and manifests of the token files that the checkpoint's run read, if they still exist."""
    settings = checkpoint.resolve().parent.parent / "config.yaml"
    try:
        run: RunConfig = from_yaml(settings.read_text())
        prefixes, _ = corpus_prefixes(run.data, run.paths.prepared, run.model.vocab_size)
        return [(Path(prefix), load(prefix)) for prefix in prefixes.values()]
    except (OSError, ValueError, KeyError):
        return []
