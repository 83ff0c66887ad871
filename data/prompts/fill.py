"""Makes a prompt of exactly the asked length, in tokens, from what a task writes.

    [begin] worked examples  instruction  filler line filler ... line filler  question | answer
    head                                  context                             question | scored

Every part is tokenised apart and the ids are joined. In a task with filler each line lies where its depth says, at an
end of a piece of filler. A task whose context is items of its own gets as many items as fit. What is left before the
first line is filled too, with the end of the filler's first piece, so the length is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice, pairwise
from typing import Literal

import numpy as np

from data.prompts.encoder import Encoder
from data.prompts.filler import Filler
from data.prompts.writing import Line, Request, Writer, Written

# none: the prompt itself. removed: without its needles. swapped: with the needles of another prompt in their places.
Control = Literal["none", "removed", "swapped"]
# Distance of the number of the prompt whose needles are taken, and of worked examples, from a prompt's own.
_OTHER, _WORKED = 1 << 40, 1 << 41
_MOST_ITEMS = 1 << 24
# Items whose tokens give the first estimate.
_SOME_ITEMS = 64
Encode = Callable[[str], np.ndarray]


class TooShort(ValueError):
    """The length has no room for the smallest prompt of the task. needed: tokens of that one."""

    def __init__(self, length: int, needed: int) -> None:
        super().__init__(f"{length} tokens: the smallest prompt needs {needed}")
        self.needed = needed


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
        shared = replace(request, number=request.number // self.candidates * self.candidates)
        head = self._head(shared, encode)
        request = self._sized(request, length, len(head), encode)
        written = self.writer.write(request)
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

    def _head(self, request: Request, encode: Encode) -> np.ndarray:
        parts, first = [np.array(self.begin, dtype=np.int64)], request.number + _WORKED
        others = (self.writer.write(replace(request, number=n, size=1)) for n in count(first))
        for other in islice((one for one in others if one.right), self.worked):
            parts += [encode(text) for text in _texts(other)]
            parts.append(encode("\n\n"))
        return np.concatenate(parts)

    def _sized(self, request: Request, length: int, head: int, encode: Encode) -> Request:
        """Returns the request with as many items as fit behind the head, less one of 256 at most.

        The next size to try follows from the tokens of an item, as far as they are known.
        """

        def tokens(size: int) -> int:
            texts = _texts(self.writer.write(replace(request, size=size)))
            return sum(len(encode(text)) for text in texts)

        fits, used, room = 1, tokens(1), length - head
        if used > room:
            raise TooShort(length, head + used)
        if not self.items:
            return replace(request, size=1)
        over, an_item = _MOST_ITEMS, max(1.0, tokens(_SOME_ITEMS + 1) - used) / _SOME_ITEMS
        while over - fits > 1 + fits // 256:
            size = min(max(fits + int((room - used) / an_item), fits + 1), over - 1)
            needed = tokens(size)
            an_item = max(1, needed - used) / (size - fits)
            fits, used, over = (size, needed, over) if needed <= room else (fits, used, size)
        return replace(request, size=fits)

    def _context(self, written: Written, request: Request, control: Control) -> list[Line]:
        """Returns the lines of the context."""
        if control == "none":
            return list(written.lines)
        strangers = iter(list[Line]())
        if control == "swapped":
            other = self.writer.write(replace(request, number=request.number + _OTHER))
            strangers = iter([line for line in other.lines if line.needle])
        kept = []
        for line in written.lines:
            if not line.needle:
                kept.append(line)
            elif (stranger := next(strangers, None)) is not None:
                kept.append(replace(line, text=stranger.text))
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
    lines = [line.text for line in written.lines]
    return [written.instruction, *lines, written.question, written.answer]
