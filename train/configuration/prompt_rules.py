"""Rules of the long-context tasks that a run is evaluated with."""

import re

from data.prompts.catalogue import TASKS
from train.configuration.nearest import did_you_mean
from train.configuration.prompt_settings import PromptTaskConfig
from train.configuration.schema import RunConfig

# Names of the other evaluations in the rows of evaluation.jsonl, beside held_out_SOURCE.
_TAKEN = ("held_out", "accuracy", "long_perplexity")
_NAME = re.compile(r"[\w-]+")


def prompt_problems(config: RunConfig) -> list[str]:
    """Returns why the long-context tasks of a run cannot be evaluated, one line each."""
    data = config.data
    has_text = data.corpus or data.heldout or data.heldout_of_sources
    return [
        f"evaluation.tasks.{name}{line}"
        for name, settings in config.evaluation.tasks.items()
        for line in _problems(name, settings, has_text=bool(has_text))
    ]


def _problems(name: str, settings: PromptTaskConfig, *, has_text: bool) -> list[str]:
    task, key = settings.task or name, ".task"
    if not _NAME.fullmatch(name):
        return [": is no name; use letters, digits, _ and -"]
    if name in _TAKEN or name.startswith("held_out_"):
        return [f": the evaluation {name} has this name; give the entry another, and task={task}"]
    if task not in TASKS:
        way = did_you_mean(task, TASKS) or f"; they are: {', '.join(sorted(TASKS))}"
        return [f"{key}={task}: is no long-context task{way}"]
    row, found = TASKS[task], list[str]()
    if len({*settings.lengths}) < len(settings.lengths):
        found.append(f".lengths={settings.lengths}: have a length twice; give each once")
    if row.needs_file and not settings.file:
        found.append(f".file: is empty, and {task} reads its questions from a file; give its path")
    if row.needs_file and settings.file:
        try:
            row.open(settings.file)
        except ValueError as error:
            found.append(f".{error}")
    if settings.file and not row.needs_file:
        found.append(f".file={settings.file}: {task} reads no file; drop it")
    wants = row.between if settings.haystack == "task" else settings.haystack
    if wants == "documents" and not has_text:
        found.append(
            f".haystack={settings.haystack}: the run has no held-out text, which {task} takes as filler; give"
            " data.heldout, or haystack=noise"
        )
    if settings.lengths and settings.last_tokens >= max(settings.lengths):
        found.append(
            f".last_tokens={settings.last_tokens}: has no effect, no prompt is longer; give fewer, or 0"
        )
    if settings.depths != PromptTaskConfig().depths and not row.has_depth:
        found.append(f".depths={settings.depths}: {task} has no depth; drop it")
    return found
