"""Many-shot labels without meaning: what a class of things is called is seen from examples only.

    brave otter: K   old hammer: T   calm heron: K   ...   young whale: | K

Each class of things has a random letter as its label (as HELMET, arXiv 2410.02694, does with the labels of its
many-shot tasks). The asked thing occurs in no example.
"""

from data.prompts.words import ADJECTIVES
from data.prompts.writing import Line, Request, Written

ANIMALS = (
    *(
        "badger",
        "bear",
        "camel",
        "cat",
        "cow",
        "crow",
        "deer",
        "dog",
        "duck",
        "eagle",
        "fox",
        "goat",
    ),
    *(
        "heron",
        "horse",
        "lion",
        "monkey",
        "mouse",
        "otter",
        "rabbit",
        "sheep",
        "swan",
        "tiger",
        "whale",
        "wolf",
    ),
)
FOODS = (
    *(
        "apple",
        "bean",
        "bread",
        "butter",
        "cabbage",
        "cake",
        "carrot",
        "cheese",
        "cherry",
        "egg",
        "garlic",
        "grape",
    ),
    *(
        "honey",
        "lemon",
        "melon",
        "olive",
        "onion",
        "peach",
        "pear",
        "plum",
        "potato",
        "rice",
        "soup",
        "tomato",
    ),
)
TOOLS = (
    *(
        "axe",
        "broom",
        "brush",
        "chisel",
        "drill",
        "file",
        "fork",
        "hammer",
        "hoe",
        "knife",
        "ladder",
        "needle",
    ),
    *(
        "nail",
        "pencil",
        "plough",
        "rake",
        "rope",
        "saw",
        "scissors",
        "shovel",
        "sickle",
        "spade",
        "spoon",
        "wrench",
    ),
)
CLOTHES = (
    *(
        "apron",
        "belt",
        "blouse",
        "boot",
        "cap",
        "cloak",
        "coat",
        "dress",
        "glove",
        "gown",
        "hat",
        "hood",
    ),
    *(
        "jacket",
        "mitten",
        "sandal",
        "scarf",
        "shawl",
        "shirt",
        "shoe",
        "skirt",
        "sock",
        "suit",
        "sweater",
        "vest",
    ),
)
FURNITURE = (
    *(
        "armchair",
        "bed",
        "bench",
        "bookcase",
        "chair",
        "chest",
        "cot",
        "couch",
        "cradle",
        "crib",
        "cupboard",
        "desk",
    ),
    *(
        "divan",
        "dresser",
        "hammock",
        "mattress",
        "rack",
        "shelf",
        "sideboard",
        "sofa",
        "stool",
        "table",
        "throne",
    ),
    "wardrobe",
)
VEHICLES = (
    *(
        "airplane",
        "ambulance",
        "barge",
        "bicycle",
        "boat",
        "bus",
        "canoe",
        "car",
        "carriage",
        "ferry",
        "glider",
    ),
    *(
        "kayak",
        "lorry",
        "raft",
        "rocket",
        "scooter",
        "ship",
        "sled",
        "tractor",
        "train",
        "tram",
        "truck",
        "van",
        "yacht",
    ),
)
CLASSES = (ANIMALS, FOODS, TOOLS, CLOTHES, FURNITURE, VEHICLES)
# Limits of the random numbers that an example is made of: class, adjective, noun.
_EXAMPLE = [len(CLASSES), len(ADJECTIVES), 1 << 32]
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ManyShot:
    """The task; an item is an example. The smallest prompt has one of each class."""

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        letters = draws.sample(_LETTERS, len(CLASSES))
        asked, adjective = draws.below(len(CLASSES)), draws.pick(ADJECTIVES)
        noun = draws.pick(CLASSES[asked])
        shown = [[one for one in things if one != noun] for things in CLASSES]
        numbers = draws.shuffled(range(len(CLASSES)))
        drawn = draws.each_below(_EXAMPLE * (len(CLASSES) + request.size - 1))
        lines = []
        for at in range(0, len(drawn), len(_EXAMPLE)):
            kind, word, place = drawn[at : at + len(_EXAMPLE)]
            kind = numbers.pop() if numbers else kind
            things = shown[kind]
            text = f"{ADJECTIVES[word]} {things[place % len(things)]}: {letters[kind]}\n"
            lines.append(Line(text, needle=kind == asked))
        return Written(
            instruction="Labels of things:\n",
            lines=lines,
            question=f"{adjective} {noun}:",
            answer=f" {letters[asked]}",
        )
