"""What a run knows of its sources without reading tokens, and the rules for using them together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from data.config import DataConfig, heldout_key
from data.generated.tasks import TASKS, GeneratedConfig, share_of_labels
from data.tokens import manifest
from data.tokens.manifest import Manifest, labelled_share

# The setting that names held-out files.
HELDOUT = "data.heldout"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The facts about one source: from the manifest of its token files, or from the settings of generated documents.

    key: the setting that names it. origin: prefix of the files, or name of the task. bos_id: token that begins every
    document; None: documents begin with their text. identity: SHA-256 of the tokens and of their labels, or task,
    version and settings. has_labels: whether only some tokens have a label. labelled_share: these, of all tokens.
    """

    key: str
    name: str
    origin: str
    eos_id: int
    bos_id: int | None
    vocab_size: int
    tokenizer_sha256: str
    identity: str
    has_labels: bool
    labelled_share: float
    is_generated: bool = False


def declared(key: str, name: str, prefix: str, described: Manifest) -> Declared:
    """The facts of a manifest as `Declared`."""
    files = described["files"]
    tokens, labels = (str(files.get(name, {}).get("sha256", "")) for name in ("bin", "labels"))
    return Declared(
        key=key,
        name=name,
        origin=prefix,
        eos_id=described["eos_id"],
        bos_id=described.get("bos_id"),
        vocab_size=described["vocab_size"],
        tokenizer_sha256=str(described["tokenizer"]["sha256"]),
        identity=f"{tokens} labels {labels}" if labels else tokens,
        has_labels=bool(labels),
        labelled_share=labelled_share(described),
    )


def declared_generated(
    name: str, settings: GeneratedConfig, config: DataConfig, files: Sequence[Declared]
) -> Declared:
    """The facts of generated documents. Tokenizer, end token and BOS token are those of the run's token files, if any.

    Without files, `config` gives end token and BOS token.
    """
    eos_id, bos_id = (files[0].eos_id, files[0].bos_id) if files else (config.end_id, config.bos_id)
    share = share_of_labels(settings, 1 if bos_id is None else 2)
    ids = [settings.largest_id(eos_id, bos_id), eos_id, -1 if bos_id is None else bos_id]
    return Declared(
        key=f"data.sources.{name}.generated",
        name=name,
        origin=settings.task,
        eos_id=eos_id,
        bos_id=bos_id,
        vocab_size=max(max(ids) + 1, files[0].vocab_size if files else 0),
        tokenizer_sha256=files[0].tokenizer_sha256 if files else "",
        identity=_identity(settings, eos_id, bos_id),
        has_labels=share < 1.0,
        labelled_share=share,
        is_generated=True,
    )


def _identity(settings: GeneratedConfig, eos_id: int, bos_id: int | None) -> str:
    """Task, version and settings on which the documents depend, without those at their defaults."""
    values = {
        field.name: (getattr(settings, field.name), field.default) for field in fields(settings)
    }
    given = {
        name: value
        for name, (value, usual) in values.items()
        if name not in ("task", "heldout", "heldout_set") and value != usual
    }
    facts = json.dumps({**given, "end_id": eos_id, "bos_id": bos_id}, sort_keys=True)
    return f"{settings.task} {TASKS[type(settings)].version} {facts}"


def read_declared(config: DataConfig) -> tuple[list[Declared], list[str]]:
    """The facts of all sources of a configuration, the held-out files last, and messages about unusable files.

    The embedded corpus is not among them, and beside it no source is: it may not exist yet.
    """
    if config.corpus:
        return [], []
    named = {name: (f"data.sources.{name}.prefix", prefix) for name, prefix in config.files.items()}
    if config.heldout:
        named[""] = (HELDOUT, config.heldout)
    # Their names are no names of sources.
    own = {
        f"{name} heldout": (heldout_key(name), prefix)
        for name, prefix in config.heldout_of_sources.items()
    }
    named |= own
    files, problems = dict[str, Declared](), list[str]()
    for name, (key, prefix) in named.items():
        try:
            files[name] = declared(key, name or "heldout", prefix, manifest.load(prefix))
        except (ValueError, OSError, KeyError, TypeError) as error:
            problems.append(str(error))
    made = {
        name: declared_generated(name, settings, config, list(files.values()))
        for name, settings in config.generated.items()
    }
    known = files | made
    return [known[name] for name in (*config.sources, "", *own) if name in known], problems


def disagreements(files: Sequence[Declared], vocab_size: int) -> list[str]:
    """Why one run of a model with `vocab_size` ids cannot use these sources together, one line each.

    They must have the same tokenizer, end token and BOS token, with all ids below `vocab_size`.
    """
    first, found = files[0], []
    for one in files:
        where = f"{one.key}={one.origin}"
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
        whose = largest.key if largest.is_generated else f"the tokenizer of {largest.origin}"
        found.append(
            f"model.vocab_size={vocab_size}: {whose} has {largest.vocab_size} ids; use"
            f" model.vocab_size={largest.vocab_size} or more"
        )
    return found


def _or_none(token: int | None) -> str:
    return "none" if token is None else str(token)
