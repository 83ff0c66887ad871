"""Which configuration file of the user's own says a value, and on which line: for messages about the value."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from train.configuration.groups import GroupFile

_KEY = re.compile(r"[\w.\-]+")


@dataclass(frozen=True)
class Origins:
    """files: the own files that the run is made of. places: of each key that one of them gives, the line and the file.

    changed: keys that the command line gives.
    """

    files: tuple[GroupFile, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, files: Iterable[GroupFile], changed: Collection[str]) -> "Origins":
        """files: in the order in which they are laid over each other."""
        places: dict[str, str] = {}
        own = tuple(file for file in files if file.is_own)
        for file in own:
            for key, line in file.yaml.lines.items():
                at = f"{file.package}.{key}" if file.package else key
                places[at] = f"line {line} of {file.yaml.path}"
        return cls(own, places, frozenset(changed))

    @property
    def texts(self) -> dict[str, str]:
        """The text of each own file, by GROUP/NAME."""
        return {f"{file.group}/{file.name}": file.yaml.text for file in self.files}

    def named(self, mistake: str) -> str:
        """A mistake, which begins with the key that it is about, with the place of an own file that gives the key."""
        match = _KEY.match(mistake)
        key = match.group().rstrip(".") if match else ""
        if key in self.changed:
            return mistake
        place = self.places.get(key) or self.places.get(key.rpartition(".")[0])
        return f"{mistake} ({place})" if place else mistake
