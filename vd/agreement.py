"""How far judges agree with labels and with each other, where a judge is biased, and labels by your own hand.

Intervals are percentile intervals of a bootstrap over questions, because replies to one question resemble each other.
"""

import csv
import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from vd import files
from vd.record import replace
from vd.shown import excerpt

LABELS = ("support", "neutral", "oppose")
P = [f"p_{label}" for label in LABELS]
MEASURES = ("accuracy", "macro_f1", "kappa", "alpha")
SHEET = ["id", "prompt", "response", "label"]
# What a spreadsheet would compute, or take for a number, a date or a truth value. An apostrophe
# before it makes it text.
GUARDED = re.compile(
    r"['=+\-@\t\r\n＝＋－＠].*|\s*(true|false)\s*"
    r"|(?=.*\d)(?:[\W\d_]|e|[ap]m"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*+)*+",
    re.I | re.S,
)


def measures(labels: pd.Series, judged: pd.Series) -> dict:
    """Agreement of two judges' labels: n, accuracy, macro_f1, kappa, alpha; rows that either left out do not count.

    Macro-F1 is the mean over the three stances, kappa Cohen's, alpha Krippendorff's for nominal
    data. All are NaN where nothing is left to compare (n is 0).
    """
    import krippendorff
    from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

    both = labels.notna().to_numpy() & judged.notna().to_numpy()
    if not both.any():
        return {"n": 0, **dict.fromkeys(MEASURES, np.nan)}
    one, two = (labels[both].map(LABELS.index).to_numpy(int) for labels in (labels, judged))
    values = range(len(LABELS))
    varied = len(set(one) | set(two)) > 1  # agreement beyond chance is not defined where there is no choice
    alpha = krippendorff.alpha([one, two], value_domain=values, level_of_measurement="nominal") if varied else np.nan
    return {
        "n": int(both.sum()),
        "accuracy": accuracy_score(one, two),
        "macro_f1": f1_score(one, two, average="macro", labels=values, zero_division=0),
        "kappa": cohen_kappa_score(one, two, labels=values) if varied else np.nan,
        "alpha": float(alpha),
    }


def agreement(labels: pd.Series, scored: pd.DataFrame) -> dict:
    """`measures` of a judge's stances (label, p_*) against given labels, and calibration_error.

    The expected calibration error is the mean gap between stated probability and share right over ten equal-width
    bins, weighted by their size.
    """
    bins = calibration(labels, scored)
    off = (bins["confidence"] - bins["accuracy"]).abs()
    gap = np.average(off, weights=bins["n"]) if len(bins) else np.nan
    return measures(labels, scored["label"]) | {"calibration_error": float(gap)}


def with_intervals(
    labels: pd.Series, judged: pd.Series, questions: pd.Series, n_boot: int = 200, seed: int = 0, alpha: float = 0.05
) -> pd.DataFrame:
    """`measures` with intervals: one row per measure with value, lo, hi, n; NaN where n is 0."""
    rows = pd.DataFrame({"one": labels.to_numpy(), "two": judged.to_numpy(), "question": questions.to_numpy()})
    rows = rows.dropna(subset=["one", "two"])
    parts = [part for _, part in rows.groupby("question", sort=True)]
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_boot if parts else 0):
        drawn = pd.concat([parts[i] for i in rng.integers(len(parts), size=len(parts))])
        draws.append(measures(drawn["one"], drawn["two"]))
    table = pd.DataFrame({"value": measures(rows["one"], rows["two"])}).drop("n")
    draws = pd.DataFrame(draws, columns=table.index, dtype=float)
    return table.assign(lo=draws.quantile(alpha / 2), hi=draws.quantile(1 - alpha / 2), n=len(rows))


def between(judges: dict[str, pd.Series], questions: pd.Series, n_boot: int = 200, seed: int = 0) -> pd.DataFrame:
    """Every pair of judges (labels by name, None where one gave none): n, accuracy, kappa and alpha with intervals."""
    names, rows = list(judges), []
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            table = with_intervals(judges[one], judges[two], questions, n_boot, seed)
            row = {"one": one, "two": two, "n": int(table["n"].iloc[0]), "accuracy": table.loc["accuracy", "value"]}
            for measure in ("kappa", "alpha"):
                row |= {measure: table.loc[measure, "value"]}
                row |= {f"{measure}_{end}": table.loc[measure, end] for end in ("lo", "hi")}
            rows.append(row)
    return pd.DataFrame(rows)


def bias(
    labels: pd.Series,
    scored: pd.DataFrame,
    questions: pd.Series,
    by: dict[str, pd.Series],
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Where a judge leans: mean p_support - p_oppose as judged minus as labelled, per group of each grouping.

    Columns: by, group, n, right (share of labels), leaning, lo, hi. Zero is unbiased; above, the judge finds more
    support than there is. A leaning that is the same everywhere cancels in drift, one that differs does not.
    """
    given = labels.map({"support": 1.0, "neutral": 0.0, "oppose": -1.0}).to_numpy()
    off = scored["p_support"].to_numpy() - scored["p_oppose"].to_numpy() - given
    rows = pd.DataFrame({"off": off, "right": (scored["label"].to_numpy() == labels.to_numpy()).astype(float)})
    rows["question"] = questions.to_numpy()
    table, rng = [], np.random.default_rng(seed)
    for name, groups in by.items():
        for group, part in rows.assign(group=groups.to_numpy()).dropna(subset=["off"]).groupby("group", sort=True):
            sums = part.groupby("question")["off"].agg(["sum", "size"]).to_numpy(float)
            drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), n_boot) @ sums
            lo, hi = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
            table.append((name, group, len(part), part["right"].mean(), part["off"].mean(), lo, hi))
    return pd.DataFrame(table, columns=["by", "group", "n", "right", "leaning", "lo", "hi"])


def calibration(labels: pd.Series, scored: pd.DataFrame) -> pd.DataFrame:
    """Stated probability of the judge's label against the share that is right, in ten bins: confidence, accuracy, n."""
    confidence = scored[P].max(axis=1)
    right = scored["label"].to_numpy() == labels.to_numpy()
    rows = pd.DataFrame({"confidence": confidence.to_numpy(), "accuracy": right}).dropna()
    bins = rows.groupby((rows["confidence"] * 10).clip(upper=9.999).astype(int))
    return bins.mean().assign(n=bins.size()).reset_index(drop=True)


def confusion(labels: pd.Series, judged: pd.Series) -> pd.DataFrame:
    """Counts of label (rows) against the judge's label (columns), all three stances always there."""
    table = pd.crosstab(labels.to_numpy(), judged.to_numpy())
    return table.reindex(index=LABELS, columns=LABELS, fill_value=0)


def write_sheet(responses: pd.DataFrame, n: int, file: Path, seed: int = 0) -> int:
    """Write a CSV of replies for people to label, drawn evenly from all runs and checkpoints; returns their number.

    It is blind: nothing in it tells which checkpoint wrote a reply. Raises FileExistsError, lest labels be lost.
    """
    if file.exists():
        raise FileExistsError(f"{file}: is there already; move it away to draw another sheet")
    rows = responses.drop_duplicates(["prompt", "response"]).sample(frac=1, random_state=seed)
    turn = rows.groupby(["run", "step"]).cumcount()
    rows = rows.assign(turn=turn).sort_values("turn", kind="stable").head(n).sample(frac=1, random_state=seed)
    ids = [_id(row.prompt, row.response) for row in rows.itertuples()]
    rows = rows.assign(id=ids, label="").drop_duplicates("id")[SHEET]
    cells = rows.map(lambda text: f"'{text}" if GUARDED.fullmatch(text) else text)
    with replace(file) as part:  # with a byte-order mark, by which spreadsheets know UTF-8
        cells.to_csv(part, index=False, quoting=csv.QUOTE_ALL, encoding="utf-8-sig")
    return len(rows)


def read_sheet(file: Path) -> pd.DataFrame:
    """A sheet that was filled in: id, prompt, response, label, rows without a label left out.

    Whatever people and spreadsheets do to a sheet is undone, as long as every prompt and response
    is still the one that its id was made of. Raises ValueError with the file, the line and the fix.
    """
    records = files.records(file)
    columns = [column.strip().casefold() for column in next(records, (0, []))[1]]
    if missing := [column for column in SHEET if columns.count(column) != 1]:
        said = f"columns are {excerpt(', '.join(filter(None, columns))) or 'missing'}"
        fix = f"each of {', '.join(SHEET)} must be there once, not {', '.join(missing)}"
        raise ValueError(f"{file}: line 1: {said}; {fix}")
    found = {}
    for line, record in records:
        record += [""] * (len(columns) - len(record))
        row = {column: record[columns.index(column)] for column in SHEET}
        if not any(cell.strip() for cell in row.values()):
            continue
        place = f"{file}: line {line} ({excerpt(row['id'])})"
        row = _restored(row, place)
        texts = row["prompt"], row["response"]
        if texts in found:
            raise ValueError(f"{place}: this reply is there twice; remove one")
        found[texts] = row
    labelled = [row for row in found.values() if row["label"]]
    return pd.DataFrame(labelled, columns=SHEET, dtype=object)


def _restored(row: dict, place: str) -> dict:
    """A row of a sheet as it was written, with its label in small letters."""
    label = row["label"].strip().casefold()
    if label not in ("", *LABELS):
        fix = f"write {', '.join(LABELS)} or nothing"
        raise ValueError(f"{place}: label '{excerpt(row['label'])}'; {fix}")
    for prompt in _unguarded(row["prompt"]):
        for response in _unguarded(row["response"]):
            name = _id(prompt, response)
            same = row["id"].strip().casefold() == name
            if same or _was_id(row["id"], f"{prompt}\n{response}"):
                return {"id": name, "prompt": prompt, "response": response, "label": label}
    raise ValueError(f"{place}: id, prompt or response was changed; only fill in label")


def _unguarded(text: str) -> tuple[str, ...]:
    """What a cell may have been: without the apostrophe that guards it, or as it is."""
    return (text[1:], text) if text.startswith("'") else (text,)


def _id(prompt: str, response: str) -> str:
    """A name of a reply that no spreadsheet takes for a number.

    It depends on what is to be seen of both texts, since spaces and line ends do not survive.
    """
    seen = [" ".join(filter(None, map(_seen, text.split()))) for text in (prompt, response)]
    return "r" + hashlib.sha256("\n".join(seen).encode()).hexdigest()[:10]


def _seen(word: str) -> str:
    return "".join(mark for mark in word if mark.isprintable())


def _was_id(given: str, texts: str) -> bool:
    """Whether an id is that of an older sheet: eight digits, which spreadsheets may compute."""
    name, given = hashlib.sha256(texts.encode()).hexdigest()[:8], given.strip().casefold()
    try:
        number = float(given.replace(",", "."))
        return given == name or math.isclose(number, float(name), rel_tol=0.005)
    except ValueError:
        return given == name
