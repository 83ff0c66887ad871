"""Exceptions of Hydra and OmegaConf about a user's arguments and values, and their text in one line."""

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from data.printable import one_line

# For an argument (also one with too many digits or nestings); for values; for both.
UNPARSABLE = (HydraException, ValueError, RecursionError)
UNUSABLE = (OmegaConfBaseException, RecursionError)
UNCOMPOSABLE = (*UNPARSABLE, OmegaConfBaseException)


def words_of(error: Exception) -> str:
    """Returns the message of an error from another package, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or refers to itself"
    says = (str(error).strip() or str(error.__cause__)).partition("full_key:")[0]
    return one_line(" ".join(says.split()))
