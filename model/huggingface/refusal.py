"""Error raised when a model has no equivalent in the other format."""

from collections.abc import Sequence


class CannotExpress(ValueError):
    """A model has no equivalent in the other format. `reasons` has every reason, one line each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = list(reasons)

    def __reduce__(self) -> tuple[type["CannotExpress"], tuple[list[str]]]:
        """Pickles the argument of `__init__` instead of the text, so that the error can be sent to other ranks."""
        return CannotExpress, (self.reasons,)
