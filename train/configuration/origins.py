"""Which configuration file of the user's own says a value, and on which line: for messages about the value."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from train.configuration.groups import GroupFile

_KEY = re.compile(r"[\w.\-]+")


@dataclass(frozen=True)
class Origins:
    """places: of each key that an own file gives, the file and line. files: the own files that the run is made of."""

    files: tuple[GroupFile, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Iterable[GroupFile], changed: Collection[str]) -> "Origins":
        """files: in the order in which they are laid over each other; changed: keys that the command line gives."""
        places: dict[str, str] = {}
        own = tuple(file for file in files if file.is_own)
        for file in own:
            for key, line in file.yaml.lines.items():
                at = f"{file.package}.{key}" if file.package else key
                if at not in changed:
                    places[at] = f"line {line} of {file.yaml.path}"
        return cls(own, places)

    def named(self, mistake: str) -> str:
        """A mistake, which begins with the key that it is about, with the place of an own file that gives the key."""
        match = _KEY.match(mistake)
        key = match.group().rstrip(".") if match else ""
        place = self.places.get(key) or self.places.get(key.rpartition(".")[0])
        return f"{mistake} ({place})" if place and not mistake.endswith(")") else mistake
