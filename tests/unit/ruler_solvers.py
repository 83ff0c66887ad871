"""Answers of RULER's tasks from the text of a prompt alone, and for each task an example written by hand.

A solver reads the context and the question as a person would. It shares no code with the tasks.
"""

import re
from collections import Counter
from collections.abc import Callable

Solver = Callable[[str, str], str]
_NOTE = re.compile(r"The value noted for (\S+) is (\S+)\.\n")


def notes(context: str) -> list[tuple[str, str]]:
    return _NOTE.findall(context)


def noted(context: str, question: str) -> str:
    keys = re.search(r"noted for (.+?)(?:\?|, in (?:this order|the order of the text)\?)", question)
    assert keys is not None
    return " " + ", ".join(
        value for asked in keys[1].split(", ") for key, value in notes(context) if key == asked
    )


def tracked(context: str, question: str) -> str:
    wanted = re.search(r"the value (\d+)", question)
    assert wanted is not None
    values, found = dict[str, str](), []
    for name, given in re.findall(r"Set (\w+) to (\w+)\.\n", context):
        values[name] = values.get(given, given)
        if values[name] == wanted[1]:
            found.append(name)
    return " " + ", ".join(found)


def entries(context: str) -> list[str]:
    return re.findall(r"(?m)^\d+\. ([a-z]+ [a-z]+)$", context)


def most_common(context: str, question: str) -> str:
    count = re.search(r"Which (\d+) entries", question)
    assert count is not None
    counts = Counter(entries(context))  # in order of first occurrence, which ties keep
    most = {entry for entry, _ in counts.most_common(int(count[1]))}
    return " " + ", ".join(entry for entry in counts if entry in most)


def coded(context: str) -> list[str]:
    return re.findall(r"(?<= )(?:[a-z]{6}|\.\.\.)(?= |$)", context)


def most_frequent(context: str, question: str) -> str:
    count = re.search(r"Which (\d+) words", question)
    assert count is not None
    counts = Counter(word for word in coded(context) if word != "...")
    return " " + ", ".join(word for word, _ in counts.most_common(int(count[1])))


def place(context: str, question: str) -> str:
    asked = re.search(r"Where does (\w+) keep the (\w+ \w+)\?", question)
    assert asked is not None
    found = re.search(rf"{asked[1]} keeps the {asked[2]} in (the \w+)", context)
    return f" {found[1]}" if found else ""


def place_of_friend(context: str, question: str) -> str:
    asked = re.search(r"Where does the friend of (\w+) live\?", question)
    assert asked is not None
    friend = re.search(rf"The friend of {asked[1]} is (\w+)\.", context)
    home = friend and re.search(rf"{friend[1]} lives in (the \w+)\.", context)
    return f" {home[1]}" if home else ""


SOLVERS: dict[str, Solver] = {
    "niah_single_1": noted,
    "niah_single_2": noted,
    "niah_single_3": noted,
    "niah_multikey_1": noted,
    "niah_multikey_2": noted,
    "niah_multikey_3": noted,
    "niah_multivalue": noted,
    "niah_multiquery": noted,
    "vt": tracked,
    "cwe": most_common,
    "fwe": most_frequent,
    "qa_1": place,
    "qa_2": place_of_friend,
}

_ONE, _ANOTHER = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed", "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"
# For each task context, question and the right answer.
EXAMPLES = {
    "niah_single_1": (
        "It rains.\nThe value noted for calm-otter is 4815162.\nIt clears.\n",
        "Question: Which value is noted for calm-otter?\nAnswer: The value noted for calm-otter is",
        " 4815162",
    ),
    "niah_single_2": (
        "Once a man went far.\nThe value noted for red-fox is 1234567.\nHe came back.\n",
        "Question: Which value is noted for red-fox?\nAnswer: The value noted for red-fox is",
        " 1234567",
    ),
    "niah_single_3": (
        f"Once.\nThe value noted for red-fox is {_ONE}.\nThe end.\n",
        "Question: Which value is noted for red-fox?\nAnswer: The value noted for red-fox is",
        f" {_ONE}",
    ),
    "niah_multikey_1": (
        "The value noted for red-owl is 1111111.\nA man.\nThe value noted for red-fox is 2222222.\n"
        "The value noted for tall-fox is 3333333.\nThe value noted for dry-owl is 4444444.\n",
        "Question: Which value is noted for red-fox?\nAnswer: The value noted for red-fox is",
        " 2222222",
    ),
    "niah_multikey_2": (
        "The value noted for red-owl is 1111111.\nThe value noted for red-fox is 2222222.\n",
        "Question: Which value is noted for red-owl?\nAnswer: The value noted for red-owl is",
        " 1111111",
    ),
    "niah_multikey_3": (
        f"The value noted for {_ONE} is {_ANOTHER}.\nThe value noted for {_ANOTHER} is {_ONE}.\n",
        f"Question: Which value is noted for {_ONE}?\nAnswer: The value noted for {_ONE} is",
        f" {_ANOTHER}",
    ),
    "niah_multivalue": (
        "The value noted for red-owl is 4444444.\nA man.\nThe value noted for red-owl is 2222222.\n"
        "The value noted for red-owl is 3333333.\nThe value noted for red-owl is 1111111.\n",
        "Question: Which 4 values are noted for red-owl, in the order of the text?\nAnswer:",
        " 4444444, 2222222, 3333333, 1111111",
    ),
    "niah_multiquery": (
        "The value noted for red-owl is 4444444.\nA man.\nThe value noted for sad-owl is 2222222.\n"
        "The value noted for old-owl is 3333333.\nThe value noted for new-owl is 1111111.\n",
        "Question: Which values are noted for old-owl, red-owl, new-owl, sad-owl, in this order?\n"
        "Answer:",
        " 3333333, 4444444, 1111111, 2222222",
    ),
    "vt": (
        "Set ABCDE to 12345.\nIt rains.\nSet ZZTOP to ABCDE.\nSet HELLO to ZZTOP.\nIt clears.\n"
        "Set WORLD to HELLO.\nSet FINIS to WORLD.\n",
        "Question: Which 5 names have the value 12345, in the order of the text?\nAnswer:",
        " ABCDE, ZZTOP, HELLO, WORLD, FINIS",
    ),
    "cwe": (
        "1. red owl\n2. dry fox\n3. dry fox\n4. tall oak\n5. red owl\n6. wet hen\n",
        "Question: Which 2 entries occur most often, in the order of the list?\nAnswer:",
        " red owl, dry fox",
    ),
    "fwe": (
        " ... qwerty ... asdfgh zxcvbn ... qwerty asdfgh yuiopl qwerty ... asdfgh qwerty zxcvbn",
        "\nQuestion: Which 3 words occur most often, the most frequent first?\nAnswer:",
        " qwerty, asdfgh, zxcvbn",
    ),
    "qa_1": (
        "Document: Bela keeps the old map in the barn.\n"
        "Document: Ada keeps the old map in the attic. It is dry there.\n",
        "Question: Where does Ada keep the old map?\nAnswer:",
        " the attic",
    ),
    "qa_2": (
        "Document: Bela. Bela lives in the valley.\nDocument: Ada. The friend of Ada is Bela.\n"
        "Document: Carl. Carl lives in the tower.\n",
        "Question: Where does the friend of Ada live?\nAnswer:",
        " the valley",
    ),
}
