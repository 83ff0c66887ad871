"""config.json and generation_config.json for a checkpoint, from its model and from the files it was imported with.

An unchanged imported model keeps its config.json word for word, plus the keys that other versions of transformers or
other readers need. A changed one keeps only the keys that are not about the model. A model trained from scratch gets
a config.json in the first family that can express it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface import foreign_keys, rope_fields
from model.huggingface.catalogue import BY_TYPE, FAMILIES, family_for
from model.huggingface.family import Family, Imported
from model.huggingface.refusal import CannotExpress
from model.huggingface.takers import refusal
from model.layer_pattern import OVERRIDES, expand_pattern
from train.checkpointing.state import RunState
from train.schedule.rope_base import scheduled_base

Json = dict[str, Any]


def choose_family(model: ModelConfig, base: float, state: RunState, wanted: str) -> Family:
    """Returns the family `wanted`, else the family of the import if it still fits, else the first that fits.

    Raises:
        CannotExpress: why the family, or no family, can express the model.
    """
    if wanted:
        if wanted not in BY_TYPE:
            raise CannotExpress([f"family={wanted}: there are {', '.join(BY_TYPE)}"])
        BY_TYPE[wanted].write(model, base, 1)
        return BY_TYPE[wanted]
    origin = state.origin.get("config", {}).get("model_type")
    for family in FAMILIES:
        if origin in (family.model_type, family.heir_of):
            try:
                family.write(model, base, 1)
            except CannotExpress:
                continue
            return family
    if why := refusal(model, base):
        raise CannotExpress([f"{why}; --family NAME says what one family lacks"])
    return family_for(model, base)


def write_config(
    family: Family, model: ModelConfig, state: RunState, *, dtype: str, end_token: int | None
) -> Json:
    """Returns the content of config.json.

    end_token: the end-of-document token, used if the model was not imported.
    """
    base = scheduled_base(model, state.rope_base)
    origin: Json = state.origin.get("config", {})
    own = origin.get("model_type") == family.model_type
    if not own and origin.get("model_type") != family.heir_of:
        origin = {}
    ours = family.write(model, base, state.context_length)
    as_read = own and family.is_read_as_is(origin)
    if as_read and _says(origin, family, Imported(model, base, state.context_length)):
        rotation = rope_fields.OLD if rope_fields.NEW in origin else ()
        lacking = ("architectures", *rotation, *family.published)
        added = {key: ours[key] for key in lacking if key in ours}
        written = added | {k: v for k, v in origin.items() if k not in foreign_keys.OF_FILES}
    else:
        tokens = {"bos_token_id": None, "eos_token_id": end_token, "pad_token_id": end_token}
        written = (family.carried(origin, state.context_length) or tokens) | ours
    named = "torch_dtype" if "torch_dtype" in written else "dtype"
    if written.get(named) != dtype:
        written[named] = dtype
    return written


def write_generation_config(config: Mapping[str, Any], state: RunState) -> Json:
    """Returns the content of generation_config.json."""
    origin: Json = state.origin.get("generation_config", {})
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    if origin:
        before = state.origin.get("config", {})
        return foreign_keys.longer_generation(origin, before, state.context_length)
    return {key: config[key] for key in tokens if config.get(key) is not None}


def changed_keys(written: Mapping[str, Any], state: RunState) -> list[str]:
    """Returns the differences of an exported config.json from the imported one, one line each."""
    origin: Json = state.origin.get("config", {})
    family, before = BY_TYPE[written["model_type"]], origin.get("model_type")
    if before in (None, family.model_type, family.heir_of):
        said = foreign_keys.notes(origin, written) + _longer_texts(written, state)
        if before == family.heir_of:
            said.append(
                f"the model is a {family.model_type} now, it was imported as a {before}: transformers reads windows in "
                f"some layers of a {family.model_type} only"
            )
        return said
    return [
        f"the model is a {family.model_type} now, it was imported as a {before}: other keys of that config.json "
        "are left out"
    ]


def _longer_texts(written: Mapping[str, Any], state: RunState) -> list[str]:
    key, before = "max_length", state.origin.get("generation_config", {})
    now = write_generation_config(written, state).get(key)
    if now == before.get(key):
        return []
    return [f"generation_config.json: {key} is {now} now, was {before.get(key)}"]


def _says(origin: Json, family: Family, wanted: Imported) -> bool:
    """Whether a config.json still describes the model; False if reading it raises CannotExpress."""
    try:
        return bool(origin) and _same(family.read(origin), wanted)
    except CannotExpress:
        return False


def _same(one: Imported, other: Imported) -> bool:
    """Whether both compute the same; ignores initialisation and attention backend."""
    # What layers do is compared layer by layer: names of kinds do not matter.
    aside = {
        "attention_backend",
        "init_std",
        "layer_pattern",
        "kinds",
        "window",
        "chunk",
        *OVERRIDES,
    }
    models = [
        (
            [dataclasses.replace(spec, kind="") for spec in expand_pattern(imported.model)],
            {k: v for k, v in dataclasses.asdict(imported.model).items() if k not in aside},
        )
        for imported in (one, other)
    ]
    facts = [(imported.rope_base, imported.context_length) for imported in (one, other)]
    return models[0] == models[1] and facts[0] == facts[1]
