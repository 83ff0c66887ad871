"""Checks everything about a model that can be checked before it is built: its configuration, lengths and text."""

from dataclasses import dataclass

from data.prompts.encoder import Encoder, Remembering
from data.prompts.text import TextOfRun
from data.sources import Corpus, open_corpus
from data.text_encoder import closed_encoder
from data.tokenizer.any_tokenizer import TextTokenizer
from train.checkpointing.model_differences import model_differences
from train.configuration import validate
from train.configuration.schema import RunConfig
from train.evaluate.options import OF_RUN, EvaluateOptions
from train.evaluate.subject import Subject, configuration_of, data_warning
from train.evaluation.prompt_plan import PromptPlan, prompt_plans
from train.huggingface.kept_files import tokenizers_in
from train.huggingface.tokenizer import find_tokenizer

# What an evaluation may change in a model: what has no parameters.
_CHANGES = ("rope_scaling", "window", "position", "position_scale")


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be built: its configuration and its text.

    corpus: of the run that made it. held_out: whether the loss on its held-out documents is
    asked for.
    """

    subject: Subject
    config: RunConfig
    text: TextOfRun
    corpus: Corpus
    held_out: bool
    # What the user should know before the results; empty: nothing.
    warning: str = ""


def prepare(subject: Subject, options: EvaluateOptions, world_size: int) -> Prepared:
    """Checks everything about a model that can be checked before it is built.

    Raises:
        ValueError: all mistakes, one line each.
        OSError: a file cannot be read.
    """
    config = configuration_of(subject, options, world_size)
    mistakes = validate.rules(config, world_size) + validate.token_files(config)
    mistakes += _length_mistakes(subject, config, options)
    mistakes += _model_mistakes(subject, config)
    if mistakes:
        raise ValueError("\n".join(mistakes))
    corpus = open_corpus(config.data, config.paths.prepared, config.model.vocab_size)
    held_out, none = corpus.heldout is not None, "there are no held-out"
    if "held_out" in options.tasks and not held_out:
        raise ValueError(f"--task=held_out: {none} documents; give data.heldout=PREFIX")
    if config.evaluation.long_perplexity is not None and not held_out:
        raise ValueError(f"evaluation.long_perplexity: {none} documents; give data.heldout=PREFIX")
    text = _text(subject, config, corpus)
    warnings = [data_warning(subject, options.changes)]
    if options.all_tasks and options.lengths:
        warnings.append(_leave_out(config, text, options))
    warning = "; ".join(filter(None, warnings))
    for plan in prompt_plans(config, text).values():
        if not options.lengths and plan.name in options.tasks:
            plan.settings.lengths = _default_lengths(subject, plan)
    return Prepared(subject, config, text, corpus, "held_out" in options.tasks, warning)


def _leave_out(config: RunConfig, text: TextOfRun, options: EvaluateOptions) -> str:
    """Takes lengths without room for a prompt away, and tasks without a length; returns what was taken, or ""."""
    wanted = config.evaluation.tasks
    for settings in wanted.values():
        settings.lengths = []
    out = []
    for name, plan in prompt_plans(config, text).items():
        plan.settings.lengths = [one for one in options.lengths if plan.fits(one)]
        short = [f"{one:,}" for one in options.lengths if one not in plan.settings.lengths]
        out += [f"{name} at {' and '.join(short)}"] if short else []
    for name in [name for name, settings in wanted.items() if not settings.lengths]:
        del wanted[name]
    return f"left out, too short for a prompt: {', '.join(out)}" if out else ""


def _default_lengths(subject: Subject, plan: PromptPlan) -> list[int]:
    """Returns a quarter, a half and the whole of the length that the model was trained at, as far as prompts fit."""
    told = subject.trained_length
    found = [length for length in (told // 4, told // 2, told) if length and plan.fits(length)]
    if not found:
        raise ValueError(
            f"--task={plan.task}: has no prompt of {told:,} tokens or less, which {subject.label} was trained at; give"
            " --lengths with --beyond, or other tasks"
        )
    return found


def _text(subject: Subject, config: RunConfig, corpus: Corpus) -> TextOfRun:
    """Returns the model's tokenizer and the documents that filler is taken from.

    Raises:
        ValueError: it has no tokenizer, or another one than the model was trained with.
    """
    state, vocab_size = subject.state, config.model.vocab_size
    held = corpus.heldout
    documents = None if held is None or held.is_generated else held
    wanted = config.data.tokenizer
    if subject.kind == "model" and not wanted:
        if not (files := tokenizers_in(subject.folder)):
            raise ValueError(
                f"--model={subject.folder}: has no tokenizer.json and no tokenizer.model; give data.tokenizer=PATH"
            )
        wanted = str(files[0])
    found = find_tokenizer(wanted, subject.folder, state, vocab_size)
    if found.tokenizer is None:
        eos_id, bos_id = state.tokenizer["eos_id"], state.tokenizer.get("bos_id")
        encoder: Encoder = closed_encoder(config.data, vocab_size, eos_id, bos_id)
        return TextOfRun(encoder, eos_id, bos_id, documents)
    tokenizer = found.tokenizer
    encoder = Remembering(tokenizer.encode, tokenizer.vocab_size, tokenizer.sha256)
    bos_id = state.tokenizer["bos_id"] if "bos_id" in state.tokenizer else _bos(tokenizer)
    return TextOfRun(encoder, tokenizer.eos_id, bos_id, documents)


def _bos(tokenizer: TextTokenizer) -> int | None:
    return tokenizer.bos_id if tokenizer.adds_bos else None


def _model_mistakes(subject: Subject, config: RunConfig) -> list[str]:
    """Returns the settings of the model that its weights were not trained with and that an evaluation cannot change."""
    lines = model_differences(subject.state.model, config.model, _CHANGES)
    return [f"{line.partition('; ')[0]}; drop it" for line in lines]


def _length_mistakes(subject: Subject, config: RunConfig, options: EvaluateOptions) -> list[str]:
    """Returns which tasks have lengths above the model's own, unless other settings of positions are given."""
    told = subject.trained_length
    changed = any(change.startswith(("model.", "schedule.")) for change in options.changes)
    if not told or options.beyond or changed:
        return []
    asked = {
        f"evaluation.tasks.{name}.lengths": settings.lengths
        for name, settings in config.evaluation.tasks.items()
    }
    asked["evaluation.accuracy.lengths"] = config.evaluation.accuracy.lengths
    if {*OF_RUN} & {*options.tasks}:
        asked["--lengths"] = list(options.lengths)
    return [
        f"{key}={lengths}: {subject.label} was trained at {told:,} tokens; give lengths up to that, --beyond, or"
        " another scaling (model.kinds.KIND.rope)"
        for key, lengths in asked.items()
        if max(lengths, default=0) > told
    ]
