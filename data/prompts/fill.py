"""Makes a prompt of exactly the asked length, in tokens, from what a task writes.

    [begin] worked examples  instruction  filler line filler ... line filler  question | answer
    head                                  context                             question | scored

Every part is tokenised apart and the ids are joined. In a task with filler each line lies where its depth says, at an
end of a piece of filler. A task whose context is items of its own gets as many items as fit. What is left before the
first line is filled too, with the end of the filler's first piece, so the length is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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
    front of the prompt. begin: ids before everything, such as BOS.
    """

    writer: Writer
    encoder: Encoder
    filler: Filler
    items: bool = False
    worked: int = 0
    begin: tuple[int, ...] = ()

    def prompt(self, request: Request, length: int, control: Control = "none") -> Prompt:
        """Returns a prompt of `length` tokens, its answer included.

        Raises:
            TooShort: the smallest prompt is longer.
        """
        head = self._head(request)
        request = self._sized(request, length, len(head))
        written = self.writer.write(request)
        context = self._context(written, self._other(request), control)
        before = np.concatenate([head, self.encoder.encode(written.instruction)])
        question, answer = map(self.encoder.encode, (written.question, written.answer))
        room = length - len(before) - len(question) - len(answer)
        parts = self._filled(context, room, request)
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

    def _head(self, request: Request) -> np.ndarray:
        parts = [np.array(self.begin, dtype=np.int64)]
        for index in range(self.worked):
            other = replace(request, number=request.number + _WORKED + index, size=1)
            parts += self._encoded(self.writer.write(other))
            parts.append(self.encoder.encode("\n\n"))
        return np.concatenate(parts)

    def _encoded(self, written: Written) -> list[np.ndarray]:
        texts = [line.text for line in written.lines]
        return [
            self.encoder.encode(text)
            for text in (written.instruction, *texts, written.question, written.answer)
        ]

    def _sized(self, request: Request, length: int, head: int) -> Request:
        """Returns the request with the most items whose prompt has at most `length` tokens with the head."""

        def tokens(size: int) -> int:
            written = self.writer.write(replace(request, size=size))
            return head + sum(map(len, self._encoded(written)))

        if (smallest := tokens(1)) > length:
            raise TooShort(length, smallest)
        if not self.items:
            return replace(request, size=1)
        fits, over = 1, 2
        while over < _MOST_ITEMS and tokens(over) <= length:
            fits, over = over, over * 2
        while over - fits > 1:
            middle = (fits + over) // 2
            fits, over = (middle, over) if tokens(middle) <= length else (fits, middle)
        return replace(request, size=fits)

    def _other(self, request: Request) -> Written:
        return self.writer.write(replace(request, number=request.number + _OTHER))

    @staticmethod
    def _context(written: Written, other: Written, control: Control) -> list[Line]:
        """Returns the lines of the context."""
        if control == "none":
            return list(written.lines)
        kept, strangers = [], iter([line for line in other.lines if line.needle])
        for line in written.lines:
            if not line.needle:
                kept.append(line)
            elif control == "swapped" and (stranger := next(strangers, None)) is not None:
                kept.append(replace(line, text=stranger.text))
        return kept

    def _filled(
        self, lines: Sequence[Line], room: int, request: Request
    ) -> list[tuple[np.ndarray, bool]]:
        """Returns the ids of the context in pieces of `room` tokens together, and whether each is a needle."""
        encoded = [self.encoder.encode(line.text) for line in lines]
        # The needles of another prompt may be longer: the last lines are left out then.
        while encoded and sum(map(len, encoded)) > room:
            encoded.pop()
        filler = self._filler(room - sum(map(len, encoded)), request)
        if self.items:
            return [(piece, False) for piece in filler] + [
                (ids, line.needle) for ids, line in zip(encoded, lines, strict=False)
            ]
        ends = np.cumsum([0, *map(len, filler)])
        parts, used = list[tuple[np.ndarray, bool]](), 0
        for ids, line in sorted(zip(encoded, lines, strict=False), key=lambda one: one[1].depth):
            until = int(np.abs(ends - line.depth * ends[-1]).argmin())
            parts += [(piece, False) for piece in filler[used:until]] + [(ids, line.needle)]
            used = until
        return parts + [(piece, False) for piece in filler[used:]]

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
