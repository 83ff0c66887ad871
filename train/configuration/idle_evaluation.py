"""Which settings of evaluations have no effect. For `idle.py`."""

from train.configuration.idle_row import Row
from train.configuration.schema import RunConfig

_OF_HELD_OUT = ("evaluation.every_steps", "evaluation.max_tokens", "evaluation.yardstick_tokens")


def _holds_out(run: RunConfig) -> bool:
    made = any(settings.heldout for settings in run.data.generated.values())
    files = run.data.heldout or run.data.heldout_of_sources
    return bool(run.data.corpus or files or made)


def _trains_on_text(run: RunConfig) -> bool:
    return any(settings.is_text for settings in run.data.generated.values())


EVALUATION_ROWS = (
    Row(
        _OF_HELD_OUT,
        lambda run, _: run.evaluation.enabled,
        "with evaluation.enabled=false; drop one",
    ),
    Row(
        (*_OF_HELD_OUT[1:], "evaluation.long_perplexity"),
        lambda run, _: _holds_out(run),
        "without held-out files; give data.heldout",
    ),
    Row(
        ("data.tokenizer",),
        lambda run, _: bool(run.evaluation.tasks) or _trains_on_text(run),
        "without prompts in text; give evaluation.tasks, or drop it",
    ),
    Row(
        ("evaluation.every_steps",),
        lambda run, _: _holds_out(run) or bool(run.evaluation.tasks),
        "without held-out files or tasks; give data.heldout or evaluation.tasks",
    ),
    Row(
        ("evaluation.tasks.NAME", "evaluation.accuracy.NAME", "evaluation.long_perplexity"),
        lambda run, _: run.evaluation.enabled,
        "with evaluation.enabled=false; drop one",
    ),
    Row(
        tuple(
            f"evaluation.accuracy.{name}"
            for name in ("source", "documents", "greedy_documents", "bucket_tokens")
        ),
        lambda run, _: bool(run.evaluation.accuracy.lengths),
        "without lengths to evaluate; give evaluation.accuracy.lengths, or drop it",
    ),
)
