"""Questions about one of many documents, from files of SQuAD and HotpotQA (RULER qa_1, qa_2: arXiv 2404.06654).

The user gives the file. Documents that hold the answer beside those that the question belongs to are left out, and so
are questions whose answer is yes or no or is in none of its documents: without the right documents nothing answers.
Of several reference answers the first one is scored; the sources count any of them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.packing.document_order import shuffled
from data.prompts.draws import Draws
from data.prompts.writing import Line, Request, Written


@dataclass(frozen=True)
class Question:
    """A question. right: the documents that answer it. near: others of the same article or question, taken first."""

    text: str
    answer: str
    right: tuple[str, ...]
    near: tuple[str, ...]


class Questions:
    """The task. The first right document lies at the depth of the request, the other right ones behind it."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions
        documents = dict.fromkeys(
            text for question in questions for text in (*question.right, *question.near)
        )
        self._documents = list(documents)
        self._folded = {text: text.casefold() for text in documents}

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        total = len(self._questions)
        place = np.array([request.number % total])
        question = self._questions[shuffled(place, total, seed=request.seed, source=0, epoch=0)[0]]
        draws = request.draws()
        lines = self._others(question, draws, request.size - 1)
        first = round(request.depth * len(lines))
        behind = (first + draws.below(len(lines) - first + 1) for _ in question.right[1:])
        places = [first, *sorted(behind)]
        right = draws.shuffled(question.right)
        for before, (at, text) in enumerate(zip(places, right, strict=True)):
            lines.insert(at + before, Line(_document(text), needle=True))
        return Written(
            instruction="Answer the question below from these documents.\n",
            lines=lines,
            question=f"Question: {question.text}\nAnswer:",
            answer=f" {question.answer}",
        )

    def _others(self, question: Question, draws: Draws, count: int) -> list[Line]:
        """Returns `count` documents that do not hold the answer, or none if there is none; again from the first one."""
        answer, order = question.answer.casefold(), draws.shuffled(question.near)
        total = len(self._documents)
        places = shuffled(np.arange(total), total, seed=draws.below(1 << 32), source=0, epoch=0)
        seen = {*question.right, *order}
        order += [text for place in places if (text := self._documents[place]) not in seen]
        usable = list[Line]()
        for text in order:
            if len(usable) >= count:
                break
            if answer not in self._folded[text]:
                usable.append(Line(_document(text)))
        repeats = -(-count // len(usable)) if usable else 0
        return draws.shuffled((usable * repeats)[:count])


def open_squad(path: str) -> Questions:
    """Reads a file of SQuAD 1.1 or 2.0 (train-v2.0.json, dev-v2.0.json).

    Raises:
        ValueError: the file is missing or malformed, or has no usable question.
    """
    return _opened(path, "SQuAD", lambda content: enumerate(content["data"]), _of_article)


def open_hotpot(path: str) -> Questions:
    """Reads a file of HotpotQA (hotpot_dev_distractor_v1.json).

    Raises:
        ValueError: the file is missing or malformed, or has no usable question.
    """
    return _opened(path, "HotpotQA", enumerate, _of_entry)


def _opened(
    path: str,
    name: str,
    entries: Callable[[Any], Iterator[tuple[int, Any]]],
    read: Callable[[Any], Iterator[Question]],
) -> Questions:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"file={path}: {error.strerror}; give a JSON file of {name}") from None
    except ValueError as error:
        raise ValueError(f"file={path}: is no JSON ({error}); give a file of {name}") from None
    questions, number = list[Question](), -1
    try:
        for number, entry in entries(content):  # noqa: B007
            questions += [question for question in read(entry) if _is_usable(question)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        where = f"entry {number}" if number >= 0 else "the file"
        raise ValueError(
            f"file={path}: {where} is not as in {name} ({type(error).__name__}: {error}); give a file of {name}"
        ) from None
    if not questions:
        raise ValueError(
            f"file={path}: has no question whose answer is in its documents; give a file of {name}"
        )
    return Questions(questions)


def _of_article(article: Any) -> Iterator[Question]:
    texts = [_text(paragraph["context"]) for paragraph in article["paragraphs"]]
    for text, paragraph in zip(texts, article["paragraphs"], strict=True):
        for asked in paragraph["qas"]:
            if not asked.get("is_impossible", False) and asked["answers"]:
                yield Question(
                    text=_text(asked["question"]),
                    answer=_text(asked["answers"][0]["text"]),
                    right=(text,),
                    near=tuple(dict.fromkeys(other for other in texts if other != text)),
                )


def _of_entry(entry: Any) -> Iterator[Question]:
    texts = {_text(title): _text(f"{title}. {''.join(lines)}") for title, lines in entry["context"]}
    right = dict.fromkeys(texts[_text(title)] for title, _ in entry["supporting_facts"])
    yield Question(
        text=_text(entry["question"]),
        answer=_text(entry["answer"]),
        right=tuple(right),
        near=tuple(text for text in texts.values() if text not in right),
    )


def _is_usable(question: Question) -> bool:
    answer = question.answer.casefold()
    held = any(answer in text.casefold() for text in question.right)
    return bool(answer) and answer not in ("yes", "no") and held


def _text(value: Any) -> str:
    """Returns a text of the file with single spaces; raises TypeError for another kind of value."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return " ".join(value.split())


def _document(text: str) -> str:
    return f"Document: {text}\n"
