"""README.md of an exported model: architecture, training, held-out loss; facts of the run only."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.flops import parameter_count
from model.layer_pattern import layer_kind, layer_kinds
from train.checkpointing.state import RunState
from train.records.evaluation_rows import HELD_OUT, rows_of_task

Json = dict[str, Any]


_USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```
"""
_OTHERS = """## Other programs

How other programs, in the version named, treat this model differently from transformers.

| program | |
|---|---|
"""
_SCORES = """## Held-out loss (natural logarithm, mean over tokens)

| stage | length | loss | tokens |
|---|---|---|---|
"""


def model_card(
    checkpoint: Path,
    state: RunState,
    model: ModelConfig,
    architecture: str,
    others: Mapping[str, Sequence[str]],
    *,
    name: str,
) -> str:
    """Returns the text of README.md for the model of a checkpoint.

    others: by program, how it treats this model differently from transformers.
    """
    facts = {"architecture": architecture, **_of_model(model, state)}
    if state.step:
        facts |= _of_run(state)
    if origin := state.origin.get("config", {}).get("_name_or_path"):
        facts["started from"] = str(origin)
    if left_out := state.origin.get("left_out"):
        facts["language model without"] = str(left_out)
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    head = (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- ropewalk\n---\n"
    )
    return (
        f"{head}\n# {name}\n\nExported from a Ropewalk checkpoint (step {state.step:,}).\n\n"
        f"| fact | value |\n|---|---|\n{table}\n\n"
        f"{_scores(checkpoint.resolve().parent.parent, state.step)}{_USE}{_others(others)}"
    )


def _others(others: Mapping[str, Sequence[str]]) -> str:
    rows = [f"| {reader} | {'; '.join(lines)} |\n" for reader, lines in others.items()]
    return f"\n{_OTHERS}{''.join(rows)}" if rows else ""


def _of_model(model: ModelConfig, state: RunState) -> dict[str, str]:
    windows = {kind: spec.window for kind, spec in layer_kinds(model).items() if spec.window}
    seen = ", ".join(f"{kind} layers {window:,}" for kind, window in windows.items())
    bases = ", ".join(f"{kind} layers {base:g}" for kind, base in state.rope_base.items())
    # Kinds whose names say that they rotate.
    still = [
        f"{kind} layers"
        for kind, spec in layer_kinds(model).items()
        if spec.rope is None and layer_kind(model, kind).rotary
    ]
    return {
        "parameters": f"{parameter_count(model):,}",
        "layers": f"{model.num_layers}: {', '.join(model.layer_pattern)}",
        "width": f"{model.hidden_size}",
        "heads": f"{model.num_heads} of {model.head_dim}, {model.num_kv_heads} for keys and values",
        "window": f"{seen} keys, the token's own included" if seen else "none",
        "vocabulary": f"{model.vocab_size:,}",
        "longest sequence trained on": f"{state.context_length:,} tokens",
        **({"sequence length of the last step": f"{state.lengths[-1]:,}"} if state.lengths else {}),
        "RoPE base": bases or "none",
        **({"not rotated": ", ".join(still)} if still else {}),
    }


def _of_run(state: RunState) -> dict[str, str]:
    sources = [f"{name} ({digest[:12]})" for name, digest in state.data.get("sources", [])]
    layout = {key: value for key, value in state.layout.items() if isinstance(value, int | str)}
    return {
        "optimizer steps": f"{state.step:,}",
        "tokens seen": f"{state.tokens_seen:,}",
        "last stage": state.stage,
        "data": ", ".join(sources) or "unknown",
        "layout": ", ".join(f"{key} {value}" for key, value in layout.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in state.versions.items()),
    }


def _scores(run: Path, step: int) -> str:
    """Returns the table of the last evaluation of each stage up to this step."""
    try:
        lines = (run / "evaluation.jsonl").read_text().splitlines()
        found: list[Json] = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return ""
    latest = {
        row.get("stage"): row
        for row in rows_of_task(found, HELD_OUT)
        if int(row.get("step", 0)) <= step
    }
    rows = [
        f"| {stage} | {row['sequence_length']:,} | {row['loss']:.4f} | {row['tokens']:,} |\n"
        for stage, row in latest.items()
        if isinstance(row.get("loss"), float)
    ]
    return f"{_SCORES}{''.join(rows)}\n" if rows else ""
