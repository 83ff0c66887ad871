"""JSON key-value: an object of random UUID-like strings, one of whose values is asked for (Liu et al. 2023).

It stands on one line, since pieces of a tokenizer may join the end of a line and a quotation mark.
"""

from data.prompts.writing import Line, Request, Written


class JsonPairs:
    """The task; an item is a pair."""

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws, asked = request.draws(), request.asked_item
        pairs = [(draws.uuid(), draws.uuid()) for _ in range(request.size)]
        lines = [
            Line(f' "{name}": "{value}",', needle=number == asked)
            for number, (name, value) in enumerate(pairs)
        ]
        name, value = pairs[asked]
        return Written(
            instruction="",
            lines=[Line("JSON data: {"), *lines],
            question=f" }}\nThe value of {name} is",
            answer=f" {value}",
        )
