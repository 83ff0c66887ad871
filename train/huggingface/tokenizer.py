"""The tokenizer that goes with an exported model: where it is, and its files.

Looked for, in this order: what was asked for; what an imported checkpoint brought along; what the run's corpus was
made with, found beside its files. A SentencePiece model is converted (data/tokenizer/convert.py).
"""

from dataclasses import dataclass
from pathlib import Path

from data.files import write_durably
from data.sources import corpus_prefixes
from data.tokenizer.any_tokenizer import TextTokenizer, open_tokenizer
from data.tokenizer.convert import tokenizer_files
from data.tokenizer.sentencepiece_model import Tokenizer
from data.tokenizer.tokenizer_json import JsonTokenizer
from data.tokens.manifest import load
from train.configuration.compose import from_yaml
from train.huggingface.folder import copied
from train.huggingface.import_model import KEPT, TOKENIZER_FILES


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer's files come from; none of both for a model without one.

    end_token: ends documents; None where a folder of files does not say.
    """

    sentencepiece: Tokenizer | None = None
    folder: Path | None = None
    end_token: int | None = None

    def write(self, target: Path, context_length: int) -> None:
        """The tokenizer's files into the folder `target`."""
        if self.sentencepiece is not None:
            for name, content in tokenizer_files(self.sentencepiece, context_length).items():
                write_durably(target / name, content)
        if self.folder is not None:
            copied(self.folder, target, TOKENIZER_FILES)


def find_tokenizer(wanted: str, checkpoint: Path, vocab_size: int) -> TokenizerSource:
    """The tokenizer of a checkpoint. wanted: a file, a folder, "none", or empty for the run's own.

    Raises:
        ValueError: there is none, or it has more tokens than the model.
    """
    if wanted == "none":
        return TokenizerSource()
    if wanted:
        path = Path(wanted)
        return _of_folder(path) if path.is_dir() else _of_file(open_tokenizer(path), vocab_size)
    kept = checkpoint / KEPT
    if kept.is_dir():
        return _of_folder(kept)
    found = _of_run(checkpoint)
    if found is None:
        raise ValueError(
            f"checkpoint={checkpoint}: its run does not lead to its tokenizer; give --tokenizer PATH, or "
            "--tokenizer none"
        )
    return _of_file(open_tokenizer(found), vocab_size)


def _of_folder(folder: Path) -> TokenizerSource:
    try:
        end_token = JsonTokenizer(folder / "tokenizer.json").eos_id
    except ValueError:  # of a kind that only transformers knows
        end_token = None
    return TokenizerSource(folder=folder, end_token=end_token)


def _of_file(tokenizer: TextTokenizer, vocab_size: int) -> TokenizerSource:
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"tokenizer={tokenizer.path}: has {tokenizer.vocab_size} tokens, the model {vocab_size}; give the one it "
            "was trained with"
        )
    if isinstance(tokenizer, Tokenizer):
        return TokenizerSource(sentencepiece=tokenizer, end_token=tokenizer.eos_id)
    return TokenizerSource(folder=tokenizer.path.parent, end_token=tokenizer.eos_id)


def _of_run(checkpoint: Path) -> Path | None:
    """The tokenizer beside the corpus that the run of this checkpoint read, if it is still there."""
    settings = checkpoint.resolve().parent.parent / "config.yaml"
    try:
        run = from_yaml(settings.read_text())
        prefixes, _ = corpus_prefixes(run.data, run.paths.prepared, run.model.vocab_size)
        for prefix in prefixes.values():
            described = load(prefix)["tokenizer"]
            for folder in (Path(prefix).parent, Path()):
                path: Path = folder / described["file"]
                if path.is_file() and open_tokenizer(path).sha256 == described["sha256"]:
                    return path
    except (OSError, ValueError, KeyError):
        return None
    return None
