"""How far to trust what reads values and consistency, on texts that it has not learnt from."""

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score

from vd.data import reading, sets
from vd.readers import consistency, values
from vd.values import NAMES

EXPRESSED = 0.25  # a value counts as expressed from half of the weakest label on


def of_values(read: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Of points (N, 10) that were read and those that were meant, a row per value and `mean`:

    n         texts that express the value
    r         Pearson's correlation over all texts
    sign      share of these n whose sign was read
    f1        of telling whether it is expressed, by `EXPRESSED`
    error     mean absolute difference
    """
    rows = []
    for column, name in enumerate(NAMES):
        found, meant = read[:, column], labels[:, column]
        there = meant != 0
        told = np.abs(found) >= EXPRESSED
        rows.append(
            {
                "value": name,
                "n": int(there.sum()),
                "r": np.corrcoef(found, meant)[0, 1],
                "sign": (np.sign(found[there]) == np.sign(meant[there])).mean(),
                "f1": f1_score(there, told, zero_division=0),
                "error": np.abs(found - meant).mean(),
            }
        )
    table = pd.DataFrame(rows)
    mean = table.mean(numeric_only=True).to_dict() | {"n": int(table["n"].sum())}
    return pd.concat([table, pd.DataFrame([{"value": "mean", **mean}])], ignore_index=True)


def of_readers(readers: dict[str, object], reads: str = "detector") -> pd.DataFrame:
    """`of_values` of readers by name on held-out texts, and of a second reading of the same texts
    where there is one: the ceiling.
    """
    rows = values.split(reads)["held_out"]
    labels = rows[list(NAMES)].to_numpy(float)
    found = {name: reader.read(rows["text"]) for name, reader in readers.items()}
    if "again" in rows:
        found["a second reading"] = np.array(rows["again"].tolist(), dtype=float)
    parts = [of_values(read, labels).assign(reader=name) for name, read in found.items()]
    return pd.concat(parts, ignore_index=True)


def of_public(readers: dict[str, object], examples: int = 400) -> pd.DataFrame:
    """`of_values` of readers by name on held-out texts of others with people's labels, the first
    `examples` of each set that a mirror holds: with columns texts and reader.
    """
    parts = [pd.DataFrame(columns=["texts", "reader"])]
    for name in filter(reading.mirrored, values.PUBLIC):
        rows = values.public(name)[1].head(examples)
        labels = rows[list(NAMES)].to_numpy(float)
        for who, reader in readers.items():
            table = of_values(reader.read(rows["text"]), labels)
            parts.append(table.assign(texts=name, reader=who))
    return pd.concat(parts, ignore_index=True)


def of_consistency(judge: consistency.ConsistencyJudge) -> pd.DataFrame:
    """How often a judge of consistency is right: texts, n, accuracy, macro_f1.

    Three classes on held-out premises of each data set; and whether the one follows from the other,
    at a probability of a half, on rewritings of our answers, both ways.
    """
    found = []
    for name in consistency.there():
        rows = consistency.split(name)[1]
        said = judge.encoders.probabilities(rows).mean(axis=0).argmax(axis=1)
        said = [consistency.LABELS[label] for label in said]
        found.append((name, rows["label"], said))
    checked = sets.corpus("rewrites_checked")
    scores = judge.score(checked["original"], checked["rewrite"])
    for way in ("forward", "backward"):
        found.append((f"rewrites_checked, {way}", checked[way], scores[way] > 0.5))
        for kind, own in checked.groupby("kind", sort=False):
            said = scores.loc[own.index, way] > 0.5
            found.append((f"rewrites_checked, {way}, {kind}", own[way], said))
    return pd.DataFrame(
        {
            "texts": name,
            "n": len(labels),
            "accuracy": accuracy_score(labels, said),
            "macro_f1": f1_score(labels, said, average="macro", zero_division=0),
        }
        for name, labels, said in found
    )
