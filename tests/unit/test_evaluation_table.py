"""docs/evaluation.md lists the tasks of the table in code, as they are."""

import re
from pathlib import Path

from data.prompts.catalogue import TASKS

PAGE = Path("docs/evaluation.md").read_text(encoding="utf-8")


def test_the_page_lists_every_task_as_it_is() -> None:
    rows = [
        (name, source, context, depth, judged)
        for name, source, _, context, depth, judged in re.findall(
            r"(?m)^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| (\w+) \| (yes|no) \| (\w+) \|$", PAGE
        )
    ]
    assert rows == [
        (name, task.source, task.between, "yes" if task.has_depth else "no", task.judged)
        for name, task in TASKS.items()
    ]


def test_tasks_with_a_file_or_examples_of_their_own_are_named() -> None:
    text = " ".join(PAGE.split())
    for name, task in TASKS.items():
        assert not task.needs_file or f"`{name}` reads" in text or f", `{name}` " in text
        assert not task.worked or re.search(rf"`{name}`[^.]* have at least one", text)


def test_the_page_has_the_chance_of_every_task_that_has_one() -> None:
    rows = re.findall(r"(?m)^\| (`[\w`, ]+`) \| 1/(\d+) \| [^|]+ \|$", PAGE)
    chances = {name: 1 / int(part) for names, part in rows for name in re.findall(r"\w+", names)}
    assert chances == {name: task.chance for name, task in TASKS.items() if task.chance}
