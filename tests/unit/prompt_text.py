"""Prompts as text: an encoder with one id a character, and tokenizers that were trained on the prompts themselves."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data.prompts.catalogue import TASKS
from data.prompts.fill import Maker, Prompt
from data.prompts.filler import NOISE, Noise
from data.prompts.writing import Request
from data.tokenizer.any_tokenizer import TextTokenizer
from data.tokenizer.sentencepiece_model import train
from data.tokenizer.tokenizer_json import JsonTokenizer

# Tasks that need no file.
NAMES = tuple(name for name, task in TASKS.items() if not task.needs_file)
# The rule by which Llama 3 cuts text before its merges (tokenizer.json of its checkpoints).
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Characters:
    """One id a character."""

    vocab_size, identity = 256, "characters"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("latin1"), dtype=np.uint8).astype(np.int64)


def text_of(ids: np.ndarray) -> str:
    return bytes(ids.astype(np.uint8)).decode("latin1")


def maker_of(name: str, file: str = "") -> Maker:
    encoder = Characters()
    return TASKS[name].maker(encoder, Noise(encoder), file=file)


def parts_of(prompt: Prompt) -> tuple[str, str, str]:
    """Returns context, question and answer of a prompt in characters."""
    ids, head, question, answer = prompt.ids, prompt.head, prompt.question, prompt.answer
    return text_of(ids[head:question]), text_of(ids[question:answer]), text_of(ids[answer:])


def train_tokenizers(folder: Path) -> dict[str, TextTokenizer]:
    """Returns tokenizers whose merges come from prompts of all tasks: SentencePiece, and byte-level with two rules."""
    texts = []
    for task in (TASKS[name] for name in NAMES):
        for number in range(6):
            written = task.open("").write(Request(1, number, size=6))
            for noise in ("", NOISE[number % len(NOISE)]):
                lines = "".join(line.text + noise for line in written.lines)
                texts.append(written.instruction + lines + written.question + written.answer + "\n")
    sentences = [text[at : at + 2_000] for text in texts for at in range(0, len(text), 2_000)]
    by_gpt_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    by_llama_3 = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return {
        "sentencepiece": train(sentences, folder / "t.model", 800),
        "gpt_2": _byte_level(by_gpt_2, texts, folder / "gpt_2"),
        "llama_3": _byte_level(by_llama_3, texts, folder / "llama_3"),
    }


def _byte_level(cut: pre_tokenizers.PreTokenizer, texts: list[str], folder: Path) -> JsonTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1_500, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    return JsonTokenizer(folder / "tokenizer.json")
