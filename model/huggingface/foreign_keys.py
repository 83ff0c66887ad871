"""Keys of a config.json that no family of ours reads and other readers act on: what becomes of each.

    changes the model in some reader     the import is refused                                 REFUSED
    true of the model as it came         stays while the model is unchanged, then left out     OF_THE_MODEL
    names a length                       raised with the context, as max_position_embeddings   LENGTHS
    names files that are not exported    left out                                              OF_FILES

All other keys stay as they are (tokens, dropout, `use_cache`, names).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
_QUANTISED = "quantization_config"
# The key, and the values that leave a model as it is.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    _QUANTISED: (None,),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "use_bidirectional_attention": (None, False),
    "use_qk_norm": (None, False),
    # The part of a head that turns, in llama.cpp and vLLM.
    "rotary_pct": (None, 1),
    "rope_pct": (None, 1),
    "rope_percent": (None, 1),
    "rotary_percent": (None, 1),
}
DEQUANTISE = (
    "; dequantise it first: load it with transformers (quantization_config=FineGrainedFP8Config(dequantize=True) for "
    "fp8, Mxfp4Config(dequantize=True) for MXFP4) and save it with save_pretrained"
)
# vLLM computes attention in chunks of the first two; the others say which layers have a window, to readers that
# ask no further whether the family has any (llama.cpp, vLLM).
OF_THE_MODEL = (
    "dual_chunk_attention_config", "attention_chunk_size", "layer_types", "sliding_window", "use_sliding_window",
    "sliding_window_pattern", "interleaved_sliding_window", "max_window_layers", "no_rope_layers",
    "no_rope_layer_interval",
)  # fmt: skip
# vLLM takes the smallest of them and of max_position_embeddings as what the model can read.
LENGTHS = (
    "model_max_length", "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "seq_len", "n_positions",
    "n_ctx", "max_target_positions",
)  # fmt: skip
OF_FILES = ("auto_map",)
_WINDOWED = "sliding_attention"


def refused(config: Mapping[str, Any]) -> list[str]:
    """Why no family can read this config.json, one line each."""
    return [
        f"config.json: {key}={config[key]}: cannot be expressed{DEQUANTISE if key == _QUANTISED else ''}"
        for key, harmless in REFUSED.items()
        if key in config and config[key] not in harmless
    ]


def unread_windows(config: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """Windows that a config.json gives to a family without any. read: the keys of layers that this family reads."""
    types = config.get("layer_types")
    if "layer_types" in read or not isinstance(types, list) or _WINDOWED not in types:
        return []
    return [
        f"config.json: layer_types has {_WINDOWED}: transformers does not read it in a {config.get('model_type')}, "
        "other programs do; remove it, or use a model_type that has windows (ministral, qwen3)"
    ]


def kept(origin: Mapping[str, Any], ours: Collection[str], context_length: int) -> Json:
    """What a config.json says beside our keys, for a model that has changed. ours: keys that are written anew."""
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
    """A generation_config.json whose texts may be as long as the context where they were before."""
    before = config.get("max_position_embeddings")
    as_long = origin.get("max_length") == before and _is_shorter(before, context)
    return {**origin, "max_length": context} if as_long else dict(origin)


def notes(origin: Mapping[str, Any], written: Mapping[str, Any]) -> list[str]:
    """What an exported config.json says otherwise than the imported one, of the keys that are judged here."""
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
    """What an imported config.json says that transformers and this project do not read, and other readers do."""
    return [
        f"config.json: {key}={_short(config[key])}: not read by transformers in this family, nor here; other programs "
        "do; it stays in exports while the model is unchanged"
        for key in OF_THE_MODEL
        if key not in read
        and config.get(key) not in (None, False)
        and not _says_nothing(config, key)
    ]


def _says_nothing(config: Mapping[str, Any], key: str) -> bool:
    """Whether a key of layers leaves all layers alike: full attention, no window in any layer."""
    if key == "layer_types":
        return True  # a window among them is refused
    off = config.get("use_sliding_window") is False
    return key == "max_window_layers" or (key == "sliding_window" and off)


def _is_shorter(value: Any, context_length: int) -> bool:
    return type(value) is int and 0 < value < context_length


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 60 else said[:57] + "..."
