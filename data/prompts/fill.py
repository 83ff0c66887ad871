"""Makes a prompt of exactly the asked length, in tokens, from what a task writes.

    [begin] worked examples  instruction  filler line filler ... line filler  question | answer
    head                                  context                             question | scored

Every part is tokenised apart and the ids are joined; `Maker.joined_otherwise` says where this gives other ids than the
whole text. In a task with filler each line lies where its depth says, at an end of a piece of filler. A task whose
context is items of its own gets as many items as fit (data/prompts/fit.py), and filler before them for what is left.
The filler's first piece lacks its beginning where that makes the length exact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice, pairwise
from typing import Literal

import numpy as np

from data.prompts.encoder import Encoder
from data.prompts.filler import NOISE, Filler
from data.prompts.fit import Sized, most_items
from data.prompts.writing import Line, Request, Writer, Written

# none: the prompt itself. removed: without its needles. swapped: with the needles of another prompt in their places.
Control = Literal["none", "removed", "swapped"]
# Distance of the number of the prompt whose needles are taken, and of worked examples, from a prompt's own.
_OTHER, _WORKED = (1 << 40) + 1, 1 << 41
# Questions that are tried for one place, and the distance of their numbers.
_TRIED, _ANOTHER = 16, 1 << 42
_BETWEEN_EXAMPLES = "\n"
# Characters of a border that are shown on each side.
_SHOWN = 12
Encode = Callable[[str], np.ndarray]


class TooShort(ValueError):
    """The length has no room for the smallest prompt of the task. needed: tokens of that one."""

    def __init__(self, length: int, needed: int) -> None:
        super().__init__(length, needed)  # its arguments: a rank sends it to the others
        self.length, self.needed = length, needed

    def __str__(self) -> str:
        return f"{self.length} tokens: the smallest prompt needs {self.needed}"


@dataclass(frozen=True)
class Prompt:
    """A prompt and its answer.

    ids: int64, prompt and answer. answer: the first token of the answer. head: tokens before the context. question: the
    first token after the context. needles: token ranges of the lines that the answer follows from. depth: as asked.
    right: see `Written`.
    """

    ids: np.ndarray
    answer: int
    head: int
    question: int
    needles: tuple[range, ...]
    depth: float
    right: bool = True

    def last_part(self, tokens: int) -> "Prompt":
        """Returns the prompt with only the last `tokens` tokens before the answer, behind its head."""
        first = max(self.head, min(self.question, self.answer - tokens))
        cut = first - self.head
        ids = np.concatenate([self.ids[: self.head], self.ids[first:]])
        kept = tuple(
            range(max(first, one.start) - cut, one.stop - cut)
            for one in self.needles
            if one.stop > first
        )
        return replace(
            self, ids=ids, answer=self.answer - cut, question=self.question - cut, needles=kept
        )


@dataclass(frozen=True)
class Maker:
    """Makes the prompts of one task.

    items: whether the context consists of items of the task instead of filler. worked: number of worked examples in
    front of the prompt. begin: ids before everything, such as BOS. candidates: number of prompts in a row that ask the
    same question (see catalogue.py), and have the same examples and filler.
    """

    writer: Writer
    encoder: Encoder
    filler: Filler
    items: bool = False
    worked: int = 0
    begin: tuple[int, ...] = ()
    candidates: int = 1

    def prompt(self, request: Request, length: int, control: Control = "none") -> Prompt:
        """Returns a prompt of `length` tokens, its answer included.

        Raises:
            TooShort: the smallest prompt is longer.
        """
        # In one prompt each text is tokenised once, though its items are written at several sizes.
        encode = lru_cache(None)(self.encoder.encode)
        request = replace(request, length=length)
        shared = self._shared(request)
        head = self._head(shared, encode)
        sized = self._sized(request, length, len(head), encode)
        request, written = replace(request, size=sized.size), sized.written
        lines = self._context(written, request, control)
        before = np.concatenate([head, encode(written.instruction)])
        question, answer = map(encode, (written.question, written.answer))
        room = length - len(before) - len(question) - len(answer)
        parts = self._filled([(encode(line.text), line) for line in lines], room, shared)
        ends = len(before) + np.cumsum([0, *(len(ids) for ids, _ in parts)])
        return Prompt(
            ids=np.concatenate([before, *(ids for ids, _ in parts), question, answer]),
            answer=length - len(answer),
            head=len(before),
            question=int(ends[-1]),
            needles=tuple(
                range(int(start), int(end))
                for (start, end), (_, needle) in zip(pairwise(ends), parts, strict=True)
                if needle
            ),
            depth=request.depth,
            right=written.right,
        )

    def needed(self, request: Request, length: int) -> int:
        """Returns the tokens of the smallest prompt: more than `length` where `prompt` finds it too short."""
        request = replace(request, length=length)
        head = self._head(self._shared(request), self.encoder.encode)
        texts = _texts(self.writer.write(replace(request, size=1)))
        return len(head) + sum(len(self.encoder.encode(text)) for text in texts)

    def groups(self, number: int) -> Iterator[range]:
        """Yields the numbers of the prompts of a question, then of those that replace it where it is too long."""
        for attempt in range(_TRIED):
            first = (number + attempt * _ANOTHER) * self.candidates
            yield range(first, first + self.candidates)

    def _shared(self, request: Request) -> Request:
        """Returns the request for what candidates have in common."""
        return replace(request, number=request.number // self.candidates * self.candidates)

    def joined_otherwise(self, request: Request) -> list[str]:
        """Returns the borders of the parts of a prompt, as text, at which the whole text would have other ids.

        Looks at the smallest prompt with its worked examples, with a sentence of noise around each line if the task has
        filler. Documents as filler are ids from the start and are not looked at.
        """
        written = self.writer.write(replace(request, size=1))
        lines = [line.text for line in written.lines]
        if not self.items:
            lines = [NOISE[0], *(text for line in lines for text in (line, NOISE[1]))]
        texts = self._worked(request)
        texts += [written.instruction, *lines, written.question, written.answer]
        encode = self.encoder.encode
        return [
            f"{left[-_SHOWN:]!r} + {right[:_SHOWN]!r}"
            for left, right in pairwise(text for text in texts if text)
            if encode(left + right).tolist() != [*encode(left), *encode(right)]
        ]

    def _worked(self, request: Request) -> list[str]:
        """Returns the texts of the worked examples, which are prompts that hold their answer."""
        first = replace(request, number=request.number + _WORKED, size=1, worked=True)
        written = (self.writer.write(replace(first, number=n)) for n in count(first.number))
        examples = islice((one for one in written if one.right), self.worked)
        return [text for one in examples for text in (*_texts(one), _BETWEEN_EXAMPLES)]

    def _head(self, request: Request, encode: Encode) -> np.ndarray:
        begin = np.array(self.begin, dtype=np.int64)
        return np.concatenate([begin, *map(encode, self._worked(request))])

    def _sized(self, request: Request, length: int, head: int, encode: Encode) -> Sized:
        """Returns the prompt with as many items as fit behind the head."""

        def measure(size: int) -> Sized:
            written = self.writer.write(replace(request, size=size))
            return Sized(size, head + sum(len(encode(text)) for text in _texts(written)), written)

        smallest = measure(1)
        if smallest.tokens > length:
            raise TooShort(length, smallest.tokens)
        return most_items(measure, smallest, length) if self.items else smallest

    def _context(self, written: Written, request: Request, control: Control) -> list[Line]:
        """Returns the lines of the context. Needles of another prompt that hold this prompt's answer are left out."""
        if control == "none":
            return list(written.lines)
        needles = list[str]()
        if control == "swapped":
            number = request.number + _OTHER * self.candidates
            other = self.writer.write(replace(request, number=number))
            needles = [line.text for line in other.lines if line.needle]
        strangers = iter([text for text in needles if written.answer.strip() not in text])
        kept = list[Line]()
        for line in written.lines:
            if not line.needle:
                kept.append(line)
            elif (stranger := next(strangers, None)) is not None:
                kept.append(replace(line, text=stranger))
        return kept

    def _filled(
        self, lines: list[tuple[np.ndarray, Line]], room: int, request: Request
    ) -> list[tuple[np.ndarray, bool]]:
        """Returns the ids of the context in pieces of `room` tokens together, and whether each is a needle."""
        used = sum(len(ids) for ids, _ in lines)
        # The needles of another prompt may be longer: the last lines are left out then.
        while used > room:
            used -= len(lines.pop()[0])
        filler = self._filler(room - used, request)
        if self.items:
            return [(piece, False) for piece in filler] + [(ids, one.needle) for ids, one in lines]
        ends = np.cumsum([0, *map(len, filler)])
        parts, placed = list[tuple[np.ndarray, bool]](), 0
        for ids, line in sorted(lines, key=lambda one: one[1].depth):
            until = int(np.abs(ends - line.depth * ends[-1]).argmin())
            parts += [(piece, False) for piece in filler[placed:until]] + [(ids, line.needle)]
            placed = until
        return parts + [(piece, False) for piece in filler[placed:]]

    def _filler(self, tokens: int, request: Request) -> list[np.ndarray]:
        """Returns pieces of exactly `tokens` tokens; the first one may lack its beginning."""
        pieces, left = list[np.ndarray](), tokens
        for piece in self.filler.pieces(request.draws("filler")):
            if left <= 0:
                break
            pieces.append(piece)
            left -= len(piece)
        while left < 0:
            cut = min(-left, len(pieces[0]))
            pieces[0], left = pieces[0][cut:], left + cut
            if not len(pieces[0]):
                pieces.pop(0)
        return pieces


def _texts(written: Written) -> list[str]:
    """Returns the parts of a prompt in order."""
    lines = [line.text for line in written.lines]
    return [written.instruction, *lines, written.question, written.answer]
