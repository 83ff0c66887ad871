"""The options of `python -m train.evaluate`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.command_line import Parser
from data.prompts.catalogue import TASKS
from train.configuration.nearest import did_you_mean

# The run's own evaluations that can be asked for beside the long-context tasks.
OF_RUN = ("held_out", "accuracy", "long_perplexity")
_DESCRIPTION = """\
Evaluate checkpoints and Hugging Face models with long-context tasks, on one rank or many, at any length.

Several models may be given; each is read in turn, and the results stand side by side. KEY=VALUE are keys of
`ropewalk train`: the layout (parallel.tensor=2), the precision, another scaling
(model.kinds.full_rope.rope='{scaling: yarn, factor: 4, original_length: 8192}'), details of a task
(evaluation.tasks.qa_1.file=dev.json)."""
_AFTER = """\
examples
  ropewalk evaluate --checkpoint outputs/quickstart --task passkey,vt --lengths 1k,4k
  ropewalk evaluate --model Llama-3.1-8B --task all --lengths 8k,32k --output outputs/llama train.precision=bfloat16
  ropewalk torchrun --nproc-per-node 4 -- evaluate --checkpoint outputs/RUN --task passkey parallel.sequence=4"""


@dataclass(frozen=True)
class EvaluateOptions:
    """What is to be evaluated.

    subjects: (kind, path) in the order of the command line; kind: "checkpoint" or "model". tasks: names.
    all_tasks: whether they stand for "all": lengths without room for a prompt are left out then. lengths: in
    tokens; empty: a quarter, a half and the whole of the length that the model was trained at. beyond: whether lengths
    above that are allowed without another scaling. changes: KEY=VALUE. of_tasks: settings of every long-context task
    that were given. output: folder of the results; None: the table alone.
    """

    subjects: tuple[tuple[str, Path], ...]
    tasks: tuple[str, ...]
    all_tasks: bool
    lengths: tuple[int, ...]
    beyond: bool
    changes: tuple[str, ...]
    of_tasks: dict[str, object]
    output: Path | None


class _Subject(argparse.Action):
    """Keeps checkpoints and models in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        del parser
        kind = str(option_string).removeprefix("--")
        subjects = [*(namespace.subjects or []), (kind, Path(str(values)))]
        namespace.subjects = subjects


def read_options(arguments: Sequence[str] | None = None) -> EvaluateOptions:
    """Returns the options of a command line; ends the process with one line if one is wrong."""
    parser = _parser()
    given = parser.parse_intermixed_args(arguments)
    if not given.subjects:
        parser.error("give --checkpoint PATH or --model PATH, one or more")
    tasks = tuple(dict.fromkeys(one for some in given.task for one in some.split(",") if one))
    all_tasks = "all" in tasks
    if all_tasks:
        tasks = tuple(name for name, task in TASKS.items() if not task.needs_file)
    for name in tasks or parser.error("--task: is empty; name one or more"):
        if name not in TASKS and name not in OF_RUN:
            known = did_you_mean(name, [*TASKS, *OF_RUN]) or f"; they are: {', '.join(TASKS)}"
            parser.error(f"--task={name}: is no task{known}")
    for change in given.change:
        if "=" not in change:
            parser.error(f"{change}: is neither an option nor KEY=VALUE; see --help")
    named = {
        "depths": given.depths,
        "samples": given.samples,
        "worked": given.worked,
        "last_tokens": given.last_tokens,
        "haystack": given.haystack,
        "controls": True if given.controls else None,
        "seed": given.seed,
    }
    return EvaluateOptions(
        subjects=tuple(given.subjects),
        tasks=tasks,
        all_tasks=all_tasks,
        lengths=tuple(sorted({*given.lengths})),
        beyond=given.beyond,
        changes=tuple(given.change),
        of_tasks={key: value for key, value in named.items() if value is not None},
        output=given.output,
    )


def _parser() -> Parser:
    parser = Parser(
        prog="ropewalk evaluate",
        description=_DESCRIPTION,
        epilog=_AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint",
        action=_Subject,
        dest="subjects",
        metavar="PATH",
        help="a run's folder, or one of its checkpoints; may be given again",
    )
    parser.add_argument(
        "--model",
        action=_Subject,
        dest="subjects",
        metavar="PATH",
        help="the folder of a Hugging Face model; may be given again",
    )
    tasks = "names of tasks (docs/evaluation.md), separated by commas, or all; the run's "
    tasks += "own ones too: held_out, accuracy, long_perplexity"
    parser.add_argument("--task", action="append", default=[], metavar="NAME,...", help=tasks)
    parser.add_argument(
        "--lengths",
        type=_lengths,
        default=[],
        metavar="N,...",
        help="tokens of prompt and answer, such as 1k,4k; default: a quarter, a half and the whole of the length that "
        "the model was trained at; held_out and long_perplexity take the longest",
    )
    parser.add_argument(
        "--beyond",
        action="store_true",
        help="allow lengths above the one that the model was trained at",
    )
    _add_settings(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for evaluation.jsonl and report.html"
    )
    parser.add_argument("change", nargs="*", metavar="KEY=VALUE", help="a key of ropewalk train")
    return parser


def _add_settings(parser: Parser) -> None:
    """Adds the settings that every long-context task of a call has."""
    parser.add_argument(
        "--depths", type=int, metavar="N", help="number of depths of what is asked for"
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="prompts for each length and depth"
    )
    parser.add_argument(
        "--worked", type=int, metavar="N", help="worked examples before each prompt"
    )
    parser.add_argument(
        "--last-tokens",
        type=int,
        metavar="N",
        help="score each prompt also with only its last N tokens",
    )
    parser.add_argument(
        "--haystack", choices=["task", "noise", "documents"], help="what lies between the lines"
    )
    parser.add_argument(
        "--controls",
        action="store_true",
        help="score each prompt also without its needles, and with those of another prompt",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the prompts")


def _lengths(text: str) -> list[int]:
    """Returns lengths in tokens; k and M stand for 1,024 and 1,048,576."""
    found = []
    for part in text.split(","):
        digits = part[:-1] if part[-1:].lower() in ("k", "m") else part
        factor = {"k": 1_024, "m": 1_048_576}.get(part[-1:].lower(), 1)
        if not digits.isdecimal() or not 8 <= int(digits) * factor < 2**31:
            raise argparse.ArgumentTypeError(
                f"{part!r} is no length; give tokens from 8 on, such as 4096 or 4k"
            )
        found.append(int(digits) * factor)
    return found
