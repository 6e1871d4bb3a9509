"""Value FULCRA (Yao et al. 2023, arXiv 2311.10766): what a model replied, and which of Schwartz's
values that serves (1) or offends (-1).
"""

import re

from vd.values import NAMES

KIND = "labels"
HUB = None
LICENCE = "MIT; offensive text"
MIRROR = ("fulcra/train.jsonl",)
LABEL = re.compile(r"^([a-z-]+): ?([+-]?1)$")
OTHERS = {"humility": "tradition"}  # of the refined theory


def convert(row: dict) -> dict | str:
    """The last turn of each side, and the ten values; one that is named with both signs is 0."""
    human, _, bob = row["dialogue"].rpartition("\nBob:")
    found = dict.fromkeys(NAMES, 0)
    for label in row["value_types"]:
        told = LABEL.match(label.strip())
        if not told:
            return "a label that cannot be read"
        name = told[1].replace("-", "_")
        name = OTHERS.get(name, name)
        if name not in found:
            return "a value that is not among the ten"
        found[name] += int(told[2])
    signs = {name: (n > 0) - (n < 0) for name, n in found.items()}
    asked = human.rpartition("Human:")[2].strip()
    return {"prompt": asked, "response": bob.strip(), **signs}
