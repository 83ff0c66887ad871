"""Makes data/prompts/closed_words.txt: the words that the tasks and the noise write, in the order in which they came.

They are those of the word lists, which have upper case names in data/prompts/words.py and in the files of tasks, and
those that a task writes in every prompt.

python -m tests.unit.closed_words
"""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from data.prompts import tasks, words
from data.prompts.catalogue import TASKS
from data.prompts.filler import NOISE
from data.prompts.writing import Request

PATH = Path("data/prompts/closed_words.txt")
_WORD = re.compile(r"[A-Za-z]{2,}")
_LIST = re.compile(r"[A-Z][A-Z_]*")
_PROMPTS, _SIZE = 32, 12
# A word that only a few prompts have is one that a task makes of random letters.
_LEAST = _PROMPTS


def listed_words() -> list[str]:
    """Returns the words of all lists, of the noise, and those that every one of some prompts of a task has."""
    names = (module.name for module in iter_modules(tasks.__path__, f"{tasks.__name__}."))
    modules = (words, *map(import_module, names))
    lists = [value for one in modules for name, value in vars(one).items() if _LIST.fullmatch(name)]
    found = {word for one in lists for word in _WORD.findall(str(one))}
    found |= {word for sentence in NOISE for word in _WORD.findall(sentence)}
    for task in TASKS.values():
        if task.needs_file:
            continue
        counts: dict[str, int] = {}
        for number in range(_PROMPTS):
            written = task.open("").write(Request(0, number, size=_SIZE))
            lines = "".join(line.text for line in written.lines)
            text = written.instruction + lines + written.question + written.answer
            for word in {*_WORD.findall(text)}:
                counts[word] = counts.get(word, 0) + 1
        found |= {word for word, count in counts.items() if count >= _LEAST}
    # A model keeps the ids that it was trained with: words never move, new ones stand at the end.
    known = PATH.read_text().split()
    return [*known, *sorted(found - {*known})]


if __name__ == "__main__":
    PATH.write_text("\n".join(listed_words()) + "\n")
