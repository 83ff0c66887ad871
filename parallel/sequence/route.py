"""The work of one rank in a layer of one kind: kernel calls with their rows, and rows to send and receive.

Local rows are the rank's own tokens in stream order. Three kinds of work:

    local      queries and keys of this rank. Full layers: ONE causal call over each document's local tokens in
               order, without the gaps between chunks (other calls add the keys in the gaps).
    exchange   keys of other ranks, received in one all-to-all and laid out by `assembly`.
    steps      keys of the rank `distance` before this one on the ring, one message a step.

Two chunks can share one document at most, so in a full layer the queries of a chunk see either all or nothing
of a piece before the chunk: rectangles, no mask. In a layer with a window, the queries of a chunk whose window
begins before the chunk ("heads", at most window - 1 of them) get a separate call over the keys before the chunk
concatenated with those of the chunk:

    window 4, a document over the border      | own chunk: a b c d e f g
    local: d e f g over a .. g                | heads: a b c over x y z + a b c      (x y z: from other ranks)

A layer with chunked attention is a full layer over the attention chunks of the documents.

Pure integers on the host, but for the index tensors of `Segments`.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple

import torch

from model.attention.segments import Segments
from model.documents import Documents
from model.reach import Reach
from parallel.sequence.chunks import Dealing
from parallel.sequence.plan import KeyPlan, needs_few_keys, plan_keys

# How full layers receive keys. "auto": in one exchange if few are needed, in ring steps otherwise.
Transport = Literal["auto", "ring", "exchange"]


@dataclass(frozen=True)
class Call:
    """One kernel call: rows of the queries over rows of the keys."""

    queries: range
    keys: range
    segments: Segments

    def to(self, device: torch.device | str) -> "Call":
        """Returns the same call with index tensors on another device."""
        return replace(self, segments=self.segments.to(device))


@dataclass(frozen=True)
class Step:
    """One step along the ring. send: local rows for the rank `distance` after this one."""

    distance: int
    send: tuple[range, ...]
    receive_rows: int
    calls: tuple[Call, ...]

    @property
    def send_rows(self) -> int:
        """Tokens sent."""
        return sum(len(piece) for piece in self.send)


class Rows(NamedTuple):
    """Rows of the received keys (`came`), or of the rank's own keys."""

    came: bool
    rows: range


@dataclass(frozen=True)
class Exchange:
    """One all-to-all. send: local rows, in order of receiving rank. assembly: the rows that form the calls' keys."""

    send: tuple[range, ...]
    send_rows: tuple[int, ...]
    receive_rows: tuple[int, ...]
    assembly: tuple[Rows, ...]
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Route:
    """All of a rank's work in a layer of one kind: local calls, and an exchange, or steps, or neither."""

    local: tuple[Call, ...]
    exchange: Exchange | None = None
    steps: tuple[Step, ...] = ()

    def to(self, device: torch.device | str) -> "Route":
        """Returns the same route with index tensors on another device."""

        def moved(calls: tuple[Call, ...]) -> tuple[Call, ...]:
            return tuple(call.to(device) for call in calls)

        exchange = self.exchange
        return Route(
            moved(self.local),
            replace(exchange, calls=moved(exchange.calls)) if exchange else None,
            tuple(replace(step, calls=moved(step.calls)) for step in self.steps),
        )

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call."""
        exchanged = self.exchange.calls if self.exchange else ()
        return (*self.local, *exchanged, *(call for step in self.steps for call in step.calls))


def route(own: "Own", reach: Reach, transport: Transport) -> Route:
    """Returns a rank's work in the layers that have this reach."""
    dealing, plan, window = own.dealing, plan_keys(own.dealing, own.documents, reach), reach.window
    own = own.within(reach)
    most = max(plan.tokens_received(r) for r in range(dealing.size))
    if window is not None:
        exchange = _exchange_heads(own, plan, window) if most else None
        return Route(own.local_windowed(window), exchange)
    if most == 0:
        return Route(own.local_full())
    if transport == "auto":
        transport = "exchange" if needs_few_keys(plan, dealing) else "ring"
    if transport == "exchange":
        return Route(own.local_full(), _exchange_rectangles(own, plan))
    return Route(own.local_full(), steps=tuple(_steps(own, plan, dealing.size)))


class Part(NamedTuple):
    """A run of one document's tokens without a gap, as stream positions and as local rows."""

    document: range
    tokens: range
    rows: range

    @property
    def begins_elsewhere(self) -> bool:
        """Whether the token before the part is in the same document, and so on another rank."""
        return self.tokens.start > self.document.start

    def head(self, window: int) -> int:
        """Returns the number of queries at its start whose window begins before the part."""
        return min(len(self.rows), window - 1) if self.begins_elsewhere else 0


class Own:
    """The tokens of one rank, cut where documents or its ranges end."""

    def __init__(self, dealing: Dealing, documents: Documents, rank: int) -> None:
        self.dealing, self.documents, self.rank = dealing, documents, rank
        self.parts: list[Part] = []
        starts = documents.starts
        row = 0
        for held in dealing.ranges(rank):
            position, document = held.start, documents.at(held.start)
            while position < held.stop:
                stop = min(held.stop, starts[document + 1])
                rows = range(row, row + stop - position)
                whole = range(starts[document], starts[document + 1])
                self.parts.append(Part(whole, range(position, stop), rows))
                position, row, document = stop, rows.stop, document + 1
        self._starts = [part.tokens.start for part in self.parts]

    def within(self, reach: Reach) -> "Own":
        """Returns the same tokens, cut where attention chunks end too."""
        if reach.chunk is None:
            return self
        return Own(self.dealing, reach.cut_documents(self.documents), self.rank)

    def rows(self, pieces: Iterable[range]) -> tuple[range, ...]:
        """Returns the local rows of stream ranges that this rank holds, neighbours joined."""
        found: list[range] = []
        for piece in pieces:
            part = self.parts[bisect_right(self._starts, piece.start) - 1]
            first = part.rows.start + piece.start - part.tokens.start
            _append(found, range(first, first + len(piece)))
        return tuple(found)

    def local_full(self) -> tuple[Call, ...]:
        """Returns one call, causal within every document: tokens are in stream order, so gaps do not matter."""
        lengths = [
            sum(len(part.rows) for part in parts)
            for _, parts in groupby(self.parts, key=lambda part: part.document)
        ]
        rows = range(sum(lengths))
        return (Call(rows, rows, Segments.from_lengths(lengths, lengths, causal=True)),)

    def local_windowed(self, window: int) -> tuple[Call, ...]:
        """Returns the calls of all queries that see no key before their part."""
        problems = [(part.rows[part.head(window) :], part.rows) for part in self.parts]
        return _calls(problems, causal=True, window=window)


def _exchange_rectangles(own: Own, plan: KeyPlan) -> Exchange:
    """Returns the exchange of a full layer. Keys are assembled in stream order: those before a part are contiguous."""
    came = sorted(_arrivals(plan.receives[own.rank]))
    order: list[range] = []
    for _, _, rows in came:
        _append(order, rows)
    pieces = [range(start, stop) for start, stop, _ in came]
    return Exchange(
        *_sizes(own, plan),
        assembly=tuple(Rows(True, rows) for rows in order),
        calls=_rectangles(own, pieces),
    )


def _exchange_heads(own: Own, plan: KeyPlan, window: int) -> Exchange:
    """Returns the exchange of a windowed layer: each head's window - 1 previous keys, received or own, and its own."""
    known = [(start, stop, True, rows) for start, stop, rows in _arrivals(plan.receives[own.rank])]
    known += [(p.tokens.start, p.tokens.stop, False, p.rows) for p in own.parts]
    known.sort(key=lambda entry: entry[0])
    starts = [entry[0] for entry in known]
    assembly: list[Rows] = []
    problems: list[tuple[range, range]] = []
    assembled = 0
    for part in own.parts:
        head = part.head(window)
        if head == 0:
            continue
        first = max(part.document.start, part.tokens.start - (window - 1))
        keys = range(first, part.tokens.start + head)
        index, position = bisect_right(starts, first) - 1, first
        while position < keys.stop:
            start, stop, came, rows = known[index]
            until = min(stop, keys.stop)
            assert start <= position < until, "the plan left a key out"
            assembly.append(Rows(came, rows[position - start : until - start]))
            position, index = until, index + 1
        problems.append((part.rows[:head], range(assembled, assembled + len(keys))))
        assembled += len(keys)
    return Exchange(
        *_sizes(own, plan),
        assembly=tuple(assembly),
        calls=_calls(problems, causal=True, window=window),
    )


def _steps(own: Own, plan: KeyPlan, size: int) -> Iterable[Step]:
    """Returns the ring steps of a full layer; all ranks leave out steps in which no rank sends anything."""
    for distance in range(1, size):
        if not any(plan.receives[rank][rank - distance] for rank in range(size)):
            continue
        pieces = plan.receives[own.rank][own.rank - distance]
        yield Step(
            distance,
            own.rows(plan.receives[(own.rank + distance) % size][own.rank]),
            sum(len(piece) for piece in pieces),
            _rectangles(own, pieces),
        )


def _sizes(own: Own, plan: KeyPlan) -> tuple[tuple[range, ...], tuple[int, ...], tuple[int, ...]]:
    """Returns the rows to send, and the numbers of rows to and from every rank."""
    sends = [received[own.rank] for received in plan.receives]
    return (
        tuple(rows for pieces in sends for rows in own.rows(pieces)),
        tuple(sum(len(piece) for piece in pieces) for pieces in sends),
        tuple(sum(len(piece) for piece in pieces) for pieces in plan.receives[own.rank]),
    )


def _arrivals(received: Sequence[Sequence[range]]) -> Iterable[tuple[int, int, range]]:
    """Yields stream start and stop of every received piece and its rows in the message, in order."""
    row = 0
    for pieces in received:
        for piece in pieces:
            yield piece.start, piece.stop, range(row, row + len(piece))
            row += len(piece)


def _rectangles(own: Own, pieces: Sequence[range]) -> tuple[Call, ...]:
    """Returns the calls of every part over those keys of the pieces that precede it in its document."""
    problems: list[tuple[range, range]] = []
    for part in own.parts:
        if not part.begins_elsewhere:
            continue
        keys = range(
            _tokens_before(pieces, part.document.start), _tokens_before(pieces, part.tokens.start)
        )
        if not keys:
            continue
        if problems and problems[-1][1] == keys and problems[-1][0].stop == part.rows.start:
            queries = range(problems.pop()[0].start, part.rows.stop)
            problems.append((queries, keys))
        else:
            problems.append((part.rows, keys))
    return _calls(problems, causal=False, window=None)


def _tokens_before(pieces: Sequence[range], position: int) -> int:
    return sum(max(0, min(piece.stop, position) - piece.start) for piece in pieces)


def _calls(
    problems: Sequence[tuple[range, range]], *, causal: bool, window: int | None
) -> tuple[Call, ...]:
    """Turns (queries, keys) into calls; consecutive pairs share a call."""
    runs: list[list[tuple[range, range]]] = []
    for queries, keys in problems:
        if not queries:
            continue
        if runs and (runs[-1][-1][0].stop, runs[-1][-1][1].stop) == (queries.start, keys.start):
            runs[-1].append((queries, keys))
        else:
            runs.append([(queries, keys)])
    return tuple(
        Call(
            range(run[0][0].start, run[-1][0].stop),
            range(run[0][1].start, run[-1][1].stop),
            Segments.from_lengths(
                [len(queries) for queries, _ in run],
                [len(keys) for _, keys in run],
                causal=causal,
                window=window,
            ),
        )
        for run in runs
    )


def _append(ranges: list[range], more: range) -> None:
    if ranges and ranges[-1].stop == more.start:
        ranges[-1] = range(ranges[-1].start, more.stop)
    else:
        ranges.append(more)
