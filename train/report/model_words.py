"""Describes the model in words: its kinds of layers, their windows and attention chunks."""

from collections import Counter

from model.config import ModelConfig
from model.flops import parameter_count
from model.layer_pattern import LAYER_KINDS, expand_pattern, layer_kind, layer_kinds
from model.position.scales.none import NoScale
from train.report.record import RunRecord
from train.report.units import whole_number


def windows(record: RunRecord) -> dict[str, int]:
    """Returns the window, in keys, of every windowed kind of layer, by the kind's name."""
    return {} if record.model is None else _windows(record.model)


def chunks(record: RunRecord) -> dict[str, int]:
    """Returns the tokens of an attention chunk of every chunked kind of layer, by the kind's name."""
    return {} if record.model is None else _chunks(record.model)


def parameters(record: RunRecord) -> int | None:
    """Returns the number of parameters; None if the model's configuration is not known."""
    return None if record.model is None else parameter_count(record.model)


def lead(record: RunRecord) -> str:
    """Returns a sentence about the model; empty if its configuration is not known."""
    return "" if record.model is None else model_in_words(record.model)


def model_in_words(model: ModelConfig) -> str:
    """Returns a sentence about a model."""
    words = f"A language model of {model.num_layers} layers, {whole_number(model.hidden_size)} wide"
    words += f", {model.num_heads} attention heads"
    if model.num_kv_heads != model.num_heads:
        words += f" on {model.num_kv_heads} key/value heads"
    count = Counter(spec.kind for spec in expand_pattern(model))
    kinds = [f"{number} {_kind_in_words(model, kind)}" for kind, number in count.items()]
    words += f": {' and '.join(kinds)}"
    seen = _windows(model)
    if len(set(seen.values())) == 1:
        words += f"; a window sees {whole_number(next(iter(seen.values())))} keys"
    elif seen:
        each = [f"{whole_number(window)} in {kind} layers" for kind, window in seen.items()]
        words += f"; keys that a window sees: {', '.join(each)}"
    lengths = _chunks(model)
    if len(set(lengths.values())) == 1:
        words += f"; attention chunks of {whole_number(next(iter(lengths.values())))} tokens"
    elif lengths:
        each = [f"{whole_number(chunk)} in {kind} layers" for kind, chunk in lengths.items()]
        words += f"; tokens of an attention chunk: {', '.join(each)}"
    if scaled := _scales(model):
        each = [f"{scale} in {kind} layers" for kind, scale in scaled.items()]
        words += f"; queries scaled by position: {', '.join(each)}"
    return f"{words}. Vocabulary of {whole_number(model.vocab_size)}."


def _windows(model: ModelConfig) -> dict[str, int]:
    kinds = layer_kinds(model)
    return {name: spec.window for name, spec in kinds.items() if spec.window is not None}


def _chunks(model: ModelConfig) -> dict[str, int]:
    kinds = layer_kinds(model)
    return {name: spec.chunk for name, spec in kinds.items() if spec.chunk is not None}


def _scales(model: ModelConfig) -> dict[str, str]:
    """Returns the name of the scale of queries of every kind of layer that has one, by the kind's name."""
    kinds = {name: kind.position_scale.scale for name, kind in model.kinds.items()}
    return {name: scale for name, scale in kinds.items() if scale != NoScale.scale}


def _kind_in_words(model: ModelConfig, name: str) -> str:
    """Describes layers of this kind; for a further kind, with its name."""
    kind = layer_kind(model, name)
    attention = {"window": "windowed", "full": "full attention", "chunk": "chunked attention"}
    words = f"{attention[kind.sees]} {'with RoPE' if kind.rotary else 'without positions'}"
    return words if name in LAYER_KINDS else f"{name} ({words})"
