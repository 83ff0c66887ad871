"""What one side cannot express of the other's model."""

from collections.abc import Sequence


class CannotExpress(ValueError):
    """Every reason why a model has no equal on the other side, one line each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = list(reasons)

    def __reduce__(self) -> tuple[type["CannotExpress"], tuple[list[str]]]:
        """How it travels to other ranks: with the arguments of `__init__`, not with its text."""
        return CannotExpress, (self.reasons,)
