"""Keys of a config.json that no family of ours reads and other programs do, and the rule for each group.

    changes the model in some program    the import raises CannotExpress                       REFUSED
    describes the imported model         kept while the model is unchanged, then left out      OF_THE_MODEL
    is a length                          raised with the context, as max_position_embeddings   LENGTHS
    names files that are not exported    left out                                              OF_FILES

All other keys are kept unchanged (tokens, dropout, `use_cache`, names).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
_QUANTISED = "quantization_config"
# Each key, and the values with which it does not change the model.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    _QUANTISED: (None,),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "use_bidirectional_attention": (None, False),
    "use_qk_norm": (None, False),
    # The rotated part of a head, in llama.cpp and vLLM.
    "rotary_pct": (None, 1),
    "rope_pct": (None, 1),
    "rope_percent": (None, 1),
    "rotary_percent": (None, 1),
}
DEQUANTISE = (
    "; dequantise it first: load it with transformers (quantization_config=FineGrainedFP8Config(dequantize=True) for "
    "fp8, Mxfp4Config(dequantize=True) for MXFP4) and save it with save_pretrained"
)
# With one of the first two keys vLLM computes attention in chunks. The others define windowed layers, for programs
# that apply them to every family (llama.cpp, vLLM).
OF_THE_MODEL = (
    "dual_chunk_attention_config", "attention_chunk_size", "layer_types", "sliding_window", "use_sliding_window",
    "sliding_window_pattern", "interleaved_sliding_window", "max_window_layers", "no_rope_layers",
    "no_rope_layer_interval",
)  # fmt: skip
# vLLM takes the smallest of these and of max_position_embeddings as the longest context of the model.
LENGTHS = (
    "model_max_length", "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "seq_len", "n_positions",
    "n_ctx", "max_target_positions",
)  # fmt: skip
OF_FILES = ("auto_map",)
_WINDOWED = "sliding_attention"


def refused(config: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """The reasons why a family cannot read this config.json, one line each. read: the keys that the family reads."""
    return [
        f"config.json: {key}={config[key]}: cannot be expressed{DEQUANTISE if key == _QUANTISED else ''}"
        for key, harmless in REFUSED.items()
        if key in config and key not in read and config[key] not in harmless
    ]


def unread_windows(config: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """A message if `layer_types` has windows that this family does not read. read: the family's `layer_keys`."""
    types = config.get("layer_types")
    if "layer_types" in read or not isinstance(types, list) or _WINDOWED not in types:
        return []
    return [
        f"config.json: layer_types has {_WINDOWED}: transformers does not read it in a {config.get('model_type')}, "
        "other programs do; remove it, or use a model_type that has windows (ministral, qwen3)"
    ]


def kept(origin: Mapping[str, Any], ours: Collection[str], context_length: int) -> Json:
    """The keys of a config.json that export keeps for a model that has changed. ours: keys that we write."""
    found = {
        key: value
        for key, value in origin.items()
        if key not in ours and key not in (*OF_THE_MODEL, *OF_FILES)
    }
    for key in LENGTHS:
        if _is_shorter(found.get(key), context_length):
            found[key] = context_length
    return found


def longer_generation(origin: Mapping[str, Any], config: Mapping[str, Any], context: int) -> Json:
    """generation_config.json with `max_length` raised to the new context, if it was equal to the old one."""
    before = config.get("max_position_embeddings")
    as_long = origin.get("max_length") == before and _is_shorter(before, context)
    return {**origin, "max_length": context} if as_long else dict(origin)


def notes(origin: Mapping[str, Any], written: Mapping[str, Any]) -> list[str]:
    """Messages about keys of this file that differ between the imported and the exported config.json."""
    found = [
        f"config.json: {key}={_short(origin[key])} is left out: it was true of the imported model, which has changed"
        for key in OF_THE_MODEL
        if origin.get(key) is not None and key not in written
    ]
    found += [
        f"config.json: {key} is left out: the files that it names are not exported"
        for key in OF_FILES
        if origin.get(key) is not None
    ]
    raised = [key for key in LENGTHS if key in written and written[key] != origin.get(key)]
    return found + [
        f"config.json: {key} is {written[key]} now, was {origin[key]}"
        for key in raised
        if key in origin
    ]


def carried_unread(config: Mapping[str, Any], read: Sequence[str]) -> list[str]:
    """Messages about keys of an imported config.json that other programs read, and transformers and we do not."""
    return [
        f"config.json: {key}={_short(config[key])}: not read by transformers in this family, nor here; other programs "
        "do; it stays in exports while the model is unchanged"
        for key in OF_THE_MODEL
        if key not in read
        and config.get(key) not in (None, False)
        and not _says_nothing(config, key)
    ]


def _says_nothing(config: Mapping[str, Any], key: str) -> bool:
    """Whether a key in OF_THE_MODEL has no effect: every layer has full attention, none a window."""
    if key == "layer_types":
        return True  # `unread_windows` has refused windows
    off = config.get("use_sliding_window") is False
    return key == "max_window_layers" or (key == "sliding_window" and off)


def _is_shorter(value: Any, context_length: int) -> bool:
    return type(value) is int and 0 < value < context_length


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else said[:57] + "..."
