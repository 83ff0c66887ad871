"""The options that name the fields of a record, for all commands that read documents."""

from dataclasses import dataclass

from data.formats.records import Fields


@dataclass(frozen=True)
class FieldOptions:
    """The options as given; None for one that is absent. See `Fields`."""

    text_field: str | None = None
    unlabelled_field: str | None = None
    segments_field: str | None = None

    @property
    def fields(self) -> Fields:
        """The names of the fields; the text is in "text" unless an option names it."""
        if self.segments_field is not None:
            return Fields("", segments=self.segments_field)
        text = "text" if self.text_field is None else self.text_field
        return Fields(text, self.unlabelled_field or "")

    @property
    def named(self) -> dict[str, str]:
        """The options that were given."""
        return {option: name for option, name in vars(self).items() if name is not None}

    def problems(self) -> list[str]:
        """Returns every broken rule, one line each."""
        found = [
            f"{option}=: is empty; name a field, or omit it"
            for option, name in self.named.items()
            if not name
        ]
        if self.segments_field is not None and len(self.named) > 1:
            others = " and ".join(name for name in self.named if name != "segments_field")
            found.append(
                f"segments_field={self.segments_field}: holds the whole text; omit {others}"
            )
        elif self.unlabelled_field == self.fields.text:
            found.append(
                f"unlabelled_field={self.unlabelled_field}: is the text field; name another"
            )
        return found
