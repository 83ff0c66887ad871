"""Small programs that answer the prompts of long-context tasks from their text alone, and an example by hand for each.

They share nothing with the tasks but the wording. A solver gets the context and the question, and returns the answer
without the space before it; empty if the context does not tell.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable

from data.prompts.tasks.linked_fact import FACTS
from data.prompts.tasks.many_shot import CLASSES

Solver = Callable[[str, str], str]


def words_after(pattern: str, question: str) -> tuple[str, ...]:
    """Returns the groups of the pattern, which must fit the question."""
    found = re.search(pattern, question)
    assert found is not None, question
    return found.groups()


def only(pattern: str, context: str) -> str:
    """Returns the group of the pattern's only place in the context; empty if there is none."""
    found = re.findall(pattern, context)
    assert len(found) <= 1, found
    return found[0] if found else ""


def _edges(context: str) -> list[tuple[str, str]]:
    return re.findall(r"^([0-9a-f]{6}) -> ([0-9a-f]{6})$", context, re.MULTILINE)


def nodes_at_depth(context: str, question: str) -> str:
    depth, start = words_after(r"at depth (\d+) from (\w+)", question)
    seen, level = {start}, {start}
    for _ in range(int(depth)):
        level = {end for begin, end in _edges(context) if begin in level} - seen
        seen |= level
    return " ".join(sorted(level))


def nodes_with_edge_to(context: str, question: str) -> str:
    [asked] = words_after(r"with an edge to (\w+)", question)
    return " ".join(sorted(begin for begin, end in _edges(context) if end == asked))


def repeated_request(context: str, question: str) -> str:
    ordinal, subject, code = words_after(r"then the (\w+) note on (.*): (\w+)$", question)
    assert question.startswith(f"Write {code} ")
    order = ("first", "second", "third", "fourth").index(ordinal)
    notes = re.findall(rf"^Note on {subject}: (.*)\.$", context, re.MULTILINE)
    return notes[order] if order < len(notes) else ""


def where(context: str, question: str) -> str:
    [asked] = words_after(r"Where is (?:the )?(\w+)\?", question)
    place: dict[str, str] = {}
    holder: dict[str, str] = {}
    for who, what, thing in re.findall(
        r"^(\w+) (went to|took|put down) the (\w+)\.$", context, re.MULTILINE
    ):
        if what == "went to":
            place[who] = thing
            place |= {one: place[who] for one, person in holder.items() if person == who}
        elif what == "took":
            holder[thing] = who
            place[thing] = place.get(who, "")
        else:
            holder.pop(thing, None)
            place[thing] = place.get(who, "")
    return place.get(asked, "")


def linked_fact(context: str, question: str) -> str:
    [asked] = words_after(r"The person who (.*) is$", question)
    [fact] = [said for said, linked in FACTS if linked == asked]
    return only(rf"(?m)^(\w+) {fact}\.$", context)


def _items(context: str) -> list[tuple[str, str]]:
    return re.findall(r"^(\w+), \w+: (\w+)$", context, re.MULTILINE)


def count_of_label(context: str, question: str) -> str:
    person, label = words_after(r"lines (?:of (\w+) )?with the label (\w+) is$", question)
    return str(sum(label == one and person in (None, who) for who, one in _items(context)))


def most_frequent(context: str, question: str) -> str:
    pair = re.search(r"labels (\w+) and (\w+)", question)
    counts = Counter(label for _, label in _items(context) if not pair or label in pair.groups())
    most = counts.most_common(2)
    ahead = most and (len(most) == 1 or most[0][1] > most[1][1])
    return most[0][0] if ahead else ""


def json_value(context: str, question: str) -> str:
    [name] = words_after(r"The value of (\S+) is$", question)
    return only(rf'"{name}": "([^"]*)"', context)


def table_cell(context: str, question: str) -> str:
    name, column = words_after(r"In the row (.*) the (\w+) is$", question)
    rows = [line.split(", ") for line in context.splitlines()]
    [header] = [row for row in rows if row[0] == "name"]
    cells = [row[header.index(column)] for row in rows if row[0] == name]
    assert len(cells) <= 1
    return "".join(cells)


def first_sentence(context: str, question: str) -> str:
    return context.splitlines()[1].rstrip(".")


def copied(context: str, question: str) -> str:
    return only(r"(?m)^Words: (.*)$", context)


def continued(context: str, question: str) -> str:
    beginning = question.split()
    words = [word.strip(".") for word in context.split()]
    places = [
        at + len(beginning)
        for at in range(len(words))
        if words[at : at + len(beginning)] == beginning
    ]
    assert len(places) <= 1
    return " ".join(words[places[0] : places[0] + 4]) if places else ""


def personal_passkey(context: str, question: str) -> str:
    [name] = words_after(r"The pass key of (\w+) is$", question)
    return only(rf"The pass key of {name} is (\d+)\.", context)


def label_of_class(context: str, question: str) -> str:
    labels = defaultdict[int, set[str]](set)
    number = {noun: at for at, things in enumerate(CLASSES) for noun in things}
    for noun, label in re.findall(r"^\w+ (\w+): ([A-Z])$", context, re.MULTILINE):
        labels[number[noun]].add(label)
    [asked] = words_after(r"(\w+):$", question)
    return "".join(labels[number[asked]])


SOLVERS: dict[str, Solver] = {
    "graphwalks_depth": nodes_at_depth,
    "graphwalks_parents": nodes_with_edge_to,
    "mrcr": repeated_request,
    "babilong_1": where,
    "babilong_2": where,
    "nolima": linked_fact,
    "oolong_count": count_of_label,
    "oolong_subset": count_of_label,
    "oolong_majority": most_frequent,
    "oolong_compare": most_frequent,
    "json_pairs": json_value,
    "table": table_cell,
    "first_sentence": first_sentence,
    "copy": copied,
    "induction": continued,
    "personal_passkey": personal_passkey,
    "many_shot": label_of_class,
}

_GRAPH = """Edges of a directed graph:
000002 -> 00000d
000001 -> 000002
00000b -> 00000c
000001 -> 00000b
00000b -> 000001
000002 -> 00000b
00000c -> 00000e
"""
_EVENTS = """Ada went to the attic.
It rains in the morning and clears before noon.
Ada took the ball.
Ada went to the park.
Bruno went to the attic.
Ada put down the ball.
Bruno went to the park.
Bruno took the ball.
Ada went to the attic.
Bruno went to the lobby.
"""
_ITEMS = """Each line has a person, a thing and a label.
Ada, otter: red
Cleo, bridge: blue
Ada, lamp: red
Cleo, otter: red
Ada, owl: blue
Cleo, fox: pink
"""
# By hand: context, question, answer.
EXAMPLES = {
    # 00000b is at depth 1, and 000001 is where the walk begins.
    "graphwalks_depth": (
        _GRAPH,
        "The nodes at depth 2 from 000001 are, sorted:",
        "00000c 00000d",
    ),
    "graphwalks_parents": (
        _GRAPH,
        "The nodes with an edge to 00000b are, sorted:",
        "000001 000002",
    ),
    "mrcr": (
        "Note on the red fox: bring carve.\nNote on the old fox: hide.\nNote on the red fox: lift mend.\n",
        "Write 12ab34 and then the second note on the red fox: 12ab34",
        "lift mend",
    ),
    "babilong_1": (_EVENTS, "Where is Ada? Now Ada is in the", "attic"),
    "babilong_2": (_EVENTS, "Where is the ball? Now the ball is in the", "lobby"),
    "nolima": (
        "Cleo plays cards.\nAda keeps a small flat beside the Colosseum.\n",
        "The person who resides in Rome is",
        "Ada",
    ),
    "oolong_count": (_ITEMS, "The number of lines with the label red is", "3"),
    "oolong_subset": (_ITEMS, "The number of lines of Ada with the label red is", "2"),
    "oolong_majority": (_ITEMS, "The label of the most lines is", "red"),
    "oolong_compare": (_ITEMS, "Of the labels pink and blue the one with more lines is", "blue"),
    "json_pairs": (
        'JSON data: { "0a-1": "ff", "0a-2": "ee", }\n',
        "The value of 0a-2 is",
        "ee",
    ),
    "table": (
        "name, owner, place\nold fox 12, Ada, park\nred fox 12, Cleo, hall\n",
        "In the row red fox 12 the owner is",
        "Cleo",
    ),
    "first_sentence": (
        "Text:\nAda wants to mend the lamp.\nIt rains in the morning and clears before noon.\n",
        "The first sentence of the text is:",
        "Ada wants to mend the lamp",
    ),
    "copy": ("It rains.\nWords: old fox mend\nIt rains.\n", "Words again:", "old fox mend"),
    "induction": (
        " it rains fox old red lamp mend owl hide bring lift",
        " old red lamp mend",
        "owl hide bring lift",
    ),
    "personal_passkey": (
        "It rains.\nThe pass key of Ada is 51027.\n",
        "The pass key of Ada is",
        "51027",
    ),
    "many_shot": (
        "Labels of things:\nbrave otter: K\nold hammer: T\ncalm heron: K\n",
        "young whale:",
        "K",
    ),
}
