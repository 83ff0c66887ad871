"""Makes data/prompts/closed_words.txt: the words that the tasks and the noise write, in order of the alphabet.

python -m tests.unit.closed_words
"""

import re
from pathlib import Path

from data.prompts import words
from data.prompts.catalogue import TASKS
from data.prompts.filler import NOISE
from data.prompts.writing import Request

PATH = Path("data/prompts/closed_words.txt")
_WORD = re.compile(r"[A-Za-z]{2,}")
_PROMPTS, _SIZE = 8, 12
# A word that only a few prompts have is one that a task makes of random letters.
_LEAST = 8


def listed_words() -> list[str]:
    """Returns the words of all lists, of the noise, and those that every one of some prompts of a task has."""
    lists = (value for name, value in vars(words).items() if name.isupper())
    found = {word for one in lists for word in one if len(word) > 1}
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
    return sorted(found)


if __name__ == "__main__":
    PATH.write_text("\n".join(listed_words()) + "\n")
