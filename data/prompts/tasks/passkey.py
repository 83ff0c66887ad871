"""Passkey: one number in filler, asked for at the end (Mohtashami and Jaggi, arXiv 2305.16300).

It is judged too easy for large models, and shows first whether a small one retrieves at all.
"""

from dataclasses import dataclass

from data.prompts.writing import Line, Request, Written


@dataclass(frozen=True)
class Passkey:
    """The task. digits: of the key."""

    digits: int = 5

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        key = request.draws().digits(self.digits)
        return Written(
            instruction="",
            lines=[Line(f"The pass key is {key}.\n", request.depth, needle=True)],
            question="The pass key is",
            answer=f" {key}",
        )
