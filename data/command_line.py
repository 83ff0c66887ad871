"""The parser of every command that takes options."""

import argparse
from typing import NoReturn

from data.printable import one_line


class Parser(argparse.ArgumentParser):
    """argparse's parser; what cannot be printed is escaped in its messages."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and `message`; ends the process with status 2."""
        super().error(one_line(message))
