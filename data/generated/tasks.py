"""The tasks of generated sources. A further task is a file with its settings and documents, and a row of `TASKS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from data.generated.copied_span import Copy, CopyTask
from data.generated.documents import Task
from data.generated.key_value import KeyValue, KeyValueTask
from data.generated.posgen import PosGen, PosGenTask
from data.generated.prompts import Prompts, PromptsTask
from data.generated.uniform import Uniform, UniformTask


@dataclass
class NotGenerated:
    """The source has token files."""

    # What the documents of the source are. none: those of token files. copy: spans that are repeated after a distance.
    # key_value: pairs and queries. posgen: sums of earlier tokens. prompts: long-context tasks. uniform: random tokens.
    task: Literal["none"] = "none"


# The settings of a task, which their `task` names.
GeneratedConfig = Copy | KeyValue | PosGen | Prompts | Uniform
# The setting of a source.
FilesOrGenerated = NotGenerated | Copy | KeyValue | PosGen | Prompts | Uniform


@dataclass(frozen=True)
class Maker:
    """Makes the documents of a task from its settings and the number of tokens (BOS, end) that the task does not make.

    version: raised when the same settings give other documents; checkpoints record it. sample: documents from which the
    share of tokens with a label is estimated.
    """

    make: Callable[[Any, int], Task]
    version: int
    sample: int = 256


TASKS: Mapping[type, Maker] = MappingProxyType(
    {
        Copy: Maker(CopyTask, version=1),
        KeyValue: Maker(KeyValueTask, version=1),
        PosGen: Maker(PosGenTask, version=1),
        Prompts: Maker(PromptsTask, version=1, sample=8),  # each is made whole
        Uniform: Maker(UniformTask, version=1),
    }
)


def share_of_labels(settings: GeneratedConfig, num_special: int) -> float:
    """Tokens that have a label, of all tokens; an estimate from some documents. 1 for impossible settings."""
    if settings.problems():
        return 1.0
    row = TASKS[type(settings)]
    task = row.make(settings, num_special)
    made = [task.document(number) for number in range(min(row.sample, settings.documents))]
    lengths = [one.length + num_special for one in made]
    counted = [one.count_labelled(0, one.length) for one in made]
    labelled = [n if some is None else some for n, some in zip(lengths, counted, strict=True)]
    return sum(labelled) / sum(lengths)
