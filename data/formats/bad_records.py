"""Bad records: the first one ends the command, or all are counted and the first ones are printed."""

from collections import Counter
from collections.abc import Callable, Mapping

from data.formats.records import BadRecord
from data.printable import one_line

NAMED_BAD_RECORDS = 50
ON_ERROR = ("fail", "skip")


class BadRecords:
    """Counts bad records by kind and prints the first ones.

    on_error: "fail" or "skip". say: prints one line. rest: text that tells where the others are listed.
    """

    def __init__(self, on_error: str, say: Callable[[str], None], rest: str = "") -> None:
        self.counts: Counter[str] = Counter()
        self._on_error = on_error
        self._say = say
        self._rest = rest
        self._printed = 0
        self._announced: dict[str, BadRecord] = {}

    def announce(self, known: Mapping[str, BadRecord]) -> None:
        """Print the bad records of inputs that cannot be read, before anything is read."""
        self._announced.update(known)
        for number, bad in enumerate(known.values()):
            if number == NAMED_BAD_RECORDS:
                self._say(f"and {len(known) - number} inputs more are left out")
                return
            self._say(f"left out: {one_line(bad.path)}: {bad.reason}")

    def note(self, bad: BadRecord) -> None:
        """Count one bad record.

        Raises:
            ValueError: on_error is "fail", and the record is not an empty text.
        """
        if bad.kind != "empty":
            if self._on_error == "fail":
                raise ValueError(f"{bad} (go on without such records: --on-error skip)")
            if bad.path not in self._announced:
                if self._printed < NAMED_BAD_RECORDS:
                    self._say(f"skipped {bad}")
                elif self._printed == NAMED_BAD_RECORDS:
                    self._say(f"more skipped records are {self._rest or 'only counted'}")
                self._printed += 1
        self.counts[bad.kind] += 1


def in_words(counts: Mapping[str, int]) -> str:
    """The counts as text: "1 empty, 2 field"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


PASSED_OVER = {
    "passed_over": "binary by their suffix",
    "hidden": "with hidden names",
    "linked_folders": "links to folders",
    "own": "token files or other outputs",
}


def passed_over_in_words(inputs: Mapping[str, object]) -> list[str]:
    """Lines about files that were not read or were read twice, from the `inputs` of a manifest."""
    counts = [f"{inputs[key]} {words}" for key, words in PASSED_OVER.items() if inputs.get(key)]
    said = [f"passed over in folders: {', '.join(counts)}"] if counts else []
    repeated = inputs.get("repeated")
    if repeated:
        said.append(
            f"inputs that are another input under a second name (links): {repeated}; their documents count twice"
        )
    return said
