"""ValueEval (Kiesel et al. 2023, SemEval task 4): arguments, and the values that they resort to.

Its 20 categories are those of Schwartz's refined theory, which become the ten basic ones by their
names; face, the public image, belongs to power and humility to tradition in his theory of 1992, and
objectivity, which is not his, stands under universalism as in the authors' own taxonomy.
"""

from vd.values import NAMES

KIND = "labels"
HUB = None
LICENCE = "CC-BY-SA-4.0"
MIRROR = ("valueeval/arguments-training.tsv",)
BESIDE = ("valueeval/labels-training.tsv", "Argument ID")
OTHERS = {"Face": "power", "Humility": "tradition"}
STANCES = {"in favor of": 1, "in favour of": 1, "against": -1}


def convert(row: dict, of: str = "premise") -> dict | str:
    """The premise as response with its ten values, 1 where it resorts to one of a value's
    categories: it endorses them, whichever side it takes. With `of` = "conclusion" the conclusion,
    whose signs are those of the stance: what an argument against it resorts to, it offends.
    """
    if of not in ("premise", "conclusion"):
        raise ValueError(f"of: {of!r}; write premise or conclusion")
    if row["Stance"] not in STANCES:
        return "no stance"
    sign = 1 if of == "premise" else STANCES[row["Stance"]]
    found = dict.fromkeys(NAMES, 0)
    for category in set(row) - {"Argument ID", "Conclusion", "Stance", "Premise"}:
        if row[category] in (1, "1"):
            value = category.partition(":")[0].lower().replace("-", "_")
            found[OTHERS.get(category, value)] = sign
    if set(found) != set(NAMES):
        raise KeyError(", ".join(sorted(set(found) - set(NAMES))))
    text = row["Premise" if of == "premise" else "Conclusion"]
    return {"id": row["Argument ID"], "prompt": row["Conclusion"], "response": text, **found}
