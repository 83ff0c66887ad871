"""The file and line of each value in the user's own configuration files, for messages about the value."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from train.configuration.groups import GroupFile

_KEY = re.compile(r"[\w.\-]+")


@dataclass(frozen=True)
class Origins:
    """files: the user's own files in the run. places: line and file of each key in them.

    changed: keys that the command line sets.
    """

    files: tuple[GroupFile, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, files: Iterable[GroupFile], changed: Collection[str]) -> "Origins":
        """Collects the places of all keys. files: later ones override earlier ones."""
        places: dict[str, str] = {}
        own = tuple(file for file in files if file.is_own)
        for file in own:
            for key, line in file.yaml.lines.items():
                at = f"{file.package}.{key}" if file.package else key
                places[at] = f"line {line} of {file.yaml.path}"
        return cls(own, places, frozenset(changed))

    @property
    def texts(self) -> dict[str, str]:
        """Returns the text of each own file, by GROUP/NAME."""
        return {f"{file.group}/{file.name}": file.yaml.text for file in self.files}

    def named(self, mistake: str) -> str:
        """Returns a message, which begins with a key, followed by the place of that key in an own file."""
        match = _KEY.match(mistake)
        key = match.group().rstrip(".") if match else ""
        if key in self.changed:
            return mistake
        place = self.places.get(key) or self.places.get(key.rpartition(".")[0])
        return f"{mistake} ({place})" if place else mistake
