"""Tables: the cell of a row and a column (after SynL of LongSkywork, arXiv 2406.00605, which tells no details)."""

from data.prompts.words import ADJECTIVES, NAMES, NOUNS, OBJECTS, PLACES
from data.prompts.writing import Line, Request, Written

COLUMNS = ("owner", "place", "object", "state", "number", "date")
# Limits of the random numbers that the cells of a row are made of.
_CELLS = [len(NAMES), len(PLACES), len(OBJECTS), len(ADJECTIVES), 90_000, 200, 12 * 28]
_KEYS = len(ADJECTIVES) * len(NOUNS) * 90


class Table:
    """The task; an item is a row. The first cell of a row is its name, which no other row has."""

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws, asked = request.draws(), request.asked_item
        column = draws.below(len(COLUMNS))
        names = [_name(number) for number in draws.different(request.size, _KEYS)]
        drawn = draws.each_below(_CELLS * len(names))
        each = len(_CELLS)
        rows = [_cells(drawn[at : at + each]) for at in range(0, len(drawn), each)]
        lines = [
            Line(f"{', '.join((name, *cells))}\n", needle=number == asked)
            for number, (name, cells) in enumerate(zip(names, rows, strict=True))
        ]
        return Written(
            instruction="",
            lines=[Line(f"{', '.join(('name', *COLUMNS))}\n"), *lines],
            question=f"In the row {names[asked]} the {COLUMNS[column]} is",
            answer=f" {rows[asked][column]}",
        )


def _name(number: int) -> str:
    words, last = divmod(number, 90)
    adjective, noun = divmod(words, len(NOUNS))
    return f"{ADJECTIVES[adjective]} {NOUNS[noun]} {10 + last}"


def _cells(drawn: list[int]) -> tuple[str, ...]:
    owner, place, thing, state, number, year, day = drawn
    return (
        NAMES[owner],
        PLACES[place],
        OBJECTS[thing],
        ADJECTIVES[state],
        str(10_000 + number),
        f"{1900 + year}-{1 + day // 28:02}-{1 + day % 28:02}",
    )
