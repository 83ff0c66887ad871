"""The facts in the manifests of a run's token files, and the rules for using them together. Reads no tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.config import DataConfig
from data.tokens import manifest
from data.tokens.manifest import Manifest, labelled_share

# The setting that names held-out files.
HELDOUT = "data.heldout"


@dataclass(frozen=True)
class Declared:
    """The facts in the manifest of one pair of token files.

    key: the setting with their prefix. bos_id: token that begins every document; None: documents begin with their text.
    sha256: of the tokens. labels_sha256: of their labels; "" where all tokens have one. labelled_share: tokens with a
    label, of all tokens.
    """

    key: str
    name: str
    prefix: str
    eos_id: int
    bos_id: int | None
    vocab_size: int
    tokenizer_sha256: str
    sha256: str
    labels_sha256: str
    labelled_share: float


def declared(key: str, name: str, prefix: str, described: Manifest) -> Declared:
    """The facts of a manifest as `Declared`."""
    return Declared(
        key=key,
        name=name,
        prefix=prefix,
        eos_id=described["eos_id"],
        bos_id=described.get("bos_id"),
        vocab_size=described["vocab_size"],
        tokenizer_sha256=str(described["tokenizer"]["sha256"]),
        sha256=str(described["files"]["bin"]["sha256"]),
        labels_sha256=str(described["files"].get("labels", {}).get("sha256", "")),
        labelled_share=labelled_share(described),
    )


def read_declared(config: DataConfig) -> tuple[list[Declared], list[str]]:
    """The facts of all token files of a configuration, the held-out ones last, and messages about unusable ones."""
    named = [
        (f"data.sources.{name}.prefix", name, source.prefix)
        for name, source in config.sources.items()
    ]
    if config.heldout:
        named.append((HELDOUT, "heldout", config.heldout))
    found, problems = [], []
    for key, name, prefix in named:
        try:
            found.append(declared(key, name, prefix, manifest.load(prefix)))
        except (ValueError, OSError, KeyError, TypeError) as error:
            problems.append(str(error))
    return found, problems


def disagreements(files: Sequence[Declared], vocab_size: int) -> list[str]:
    """Why one run of a model with `vocab_size` ids cannot use these files together, one line each.

    The files must have the same tokenizer, end token and BOS token, with all ids below `vocab_size`.
    """
    first, found = files[0], []
    for one in files:
        where = f"{one.key}={one.prefix}"
        if one.tokenizer_sha256 != first.tokenizer_sha256:
            mine, other = (each.tokenizer_sha256[:12] or "unknown" for each in (one, first))
            found.append(
                f"{where}: made with another tokenizer than {first.name} ({mine} and {other});"
                " prepare both with the same"
            )
            continue
        for what, its, theirs in (
            ("documents end with id", one.eos_id, first.eos_id),
            ("documents begin with BOS id", one.bos_id, first.bos_id),
        ):
            if its != theirs:
                found.append(
                    f"{where}: its {what} {_or_none(its)}, those of {first.name} with {_or_none(theirs)}; prepare or"
                    " describe both alike"
                )
    largest = max(files, key=lambda one: one.vocab_size)
    if largest.vocab_size > vocab_size:
        found.append(
            f"model.vocab_size={vocab_size}: the tokenizer of {largest.prefix} has {largest.vocab_size} ids; use"
            f" model.vocab_size={largest.vocab_size} or more"
        )
    return found


def _or_none(token: int | None) -> str:
    return "none" if token is None else str(token)
