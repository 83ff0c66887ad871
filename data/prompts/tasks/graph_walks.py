"""Walks in a directed graph (after OpenAI's GraphWalks): the nodes at depth exactly k, or those with an edge to a node.

4f2a1c -> 9b0d33     depth 2 from 4f2a1c: 77e0a1 c0ffee     with an edge to 77e0a1: 9b0d33
9b0d33 -> c0ffee
9b0d33 -> 77e0a1     The ids are random, the edges lie in random order; the ids of an answer are sorted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.prompts.draws import Draws
from data.prompts.writing import Line, Request, Written

Edge = tuple[int, int]
_DIGITS = 6
# Further edges of the smallest graph; most parents of the asked node.
_LEAST, _PARENTS = 4, 3


@dataclass(frozen=True)
class NodesAtDepth:
    """The nodes whose shortest walk from the asked node has `depth` edges; an item is an edge of another node."""

    depth: int = 2

    def write(self, request: Request) -> Written:
        """See `Writer`. Needles are the edges out of nodes of a smaller depth: the other edges change no answer."""
        draws = request.draws()
        needles, level, nodes = list[Edge](), [0], 1
        for _ in range(self.depth):
            reached = list[int]()
            for node in level:
                for _ in range(1 + draws.below(2)):
                    needles.append((node, nodes))
                    reached.append(nodes)
                    nodes += 1
                if node:  # an edge to a node that a shorter walk reaches
                    needles.append((node, draws.below(node)))
            level = reached
        inner = {start for start, _ in needles}
        more = _further(draws, nodes, request.size, lambda start, _: start not in inner)
        return _written(request, needles, more, f"at depth {self.depth} from", level)


class NodesWithEdgeTo:
    """The nodes that have an edge to the asked node; an item is an edge to another node."""

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        parents = range(1, 2 + draws.below(_PARENTS))
        needles = [(node, 0) for node in parents]
        more = _further(draws, len(parents) + 1, request.size, lambda _, end: end != 0)
        return _written(request, needles, more, "with an edge to", parents)


def _further(
    draws: Draws, nodes: int, size: int, allowed: Callable[[int, int], bool]
) -> list[Edge]:
    """Returns different edges between `nodes` nodes and new ones, one new node for every two edges."""
    edges = dict[Edge, None]()
    while len(edges) < size + _LEAST - 1:
        total = nodes + _LEAST + len(edges) // 2
        start, end = draws.below(total), draws.below(total)
        if start != end and allowed(start, end):
            edges[start, end] = None
    return list(edges)


def _written(
    request: Request, needles: list[Edge], more: list[Edge], asked: str, answers: Sequence[int]
) -> Written:
    """Returns the prompt that asks for the nodes that are `asked` node 0."""
    edges, order = needles + more, request.draws("order")
    total = 1 + max(max(edge) for edge in edges)
    ids = [f"{one:0{_DIGITS}x}" for one in request.draws("ids").different(total, 16**_DIGITS)]
    places = [order.below(1 << 32) for _ in edges]
    return Written(
        instruction="Edges of a directed graph:\n",
        lines=[
            Line(f"{ids[edges[n][0]]} -> {ids[edges[n][1]]}\n", needle=n < len(needles))
            for n in sorted(range(len(edges)), key=places.__getitem__)
        ],
        question=f"The nodes {asked} {ids[0]} are, sorted:",
        answer="".join(f" {one}" for one in sorted(ids[node] for node in answers)),
    )
