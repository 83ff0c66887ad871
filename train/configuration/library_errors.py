"""What Hydra and OmegaConf raise over arguments and values of a user, and how to say it in one line."""

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from data.printable import one_line

# Over an argument, with numbers and nestings without end; and over values.
UNPARSABLE = (HydraException, ValueError, RecursionError)
UNUSABLE = (OmegaConfBaseException, RecursionError)
UNCOMPOSABLE = (*UNPARSABLE, OmegaConfBaseException)


def words_of(error: Exception) -> str:
    """What an error of another package says, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or refers to itself"
    says = (str(error).strip() or str(error.__cause__)).partition("full_key:")[0]
    return one_line(" ".join(says.split()))
