"""Sheets of replies for people to label, and how they are read again."""

import csv
import hashlib
import math
import re
from pathlib import Path

import pandas as pd

from vd.stances import STANCES, opener
from vd.store import formats
from vd.store.files import replace
from vd.store.shown import excerpt

SHEET = ["id", "prompt", "response", "label"]
# What a spreadsheet would compute, or take for a number, a date or a truth value. An apostrophe
# before it makes it text.
GUARDED = re.compile(
    # what begins a formula, also in full width, and truth values
    r"['=+\-@\t\r\n＝＋－＠].*|\s*(true|false)\s*"
    # digits among nothing but marks, exponents and months: numbers, dates and times;
    # possessive, so that a text which fails is not tried in every other split
    r"|(?=.*\d)(?:[\W\d_]|e|[ap]m"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*+)*+",
    re.I | re.S,
)


def write_sheet(responses: pd.DataFrame, n: int, file: Path, seed: int = 0) -> int:
    """Write a CSV of replies for people to label, drawn evenly from all runs, checkpoints and
    openers (Yes, No, another word); returns their number.

    It is blind: nothing in it tells which checkpoint wrote a reply. Raises FileExistsError, lest
    labels be lost.
    """
    if file.exists():
        raise FileExistsError(f"{file}: is there already; move it away to draw another sheet")
    # shuffled here for who is drawn, and at the end lest the order tell who wrote what
    rows = responses.drop_duplicates(["prompt", "response"]).sample(frac=1, random_state=seed)
    # one of each checkpoint and opener before a second of any: of replies that open with Yes there
    # are many, and a judge finds them easy
    turn = rows.groupby(["run", "step", opener(rows["response"])]).cumcount()
    rows = (
        rows.assign(turn=turn)
        .sort_values("turn", kind="stable")
        .head(n)
        .sample(frac=1, random_state=seed)
    )
    ids = [_id(row.prompt, row.response) for row in rows.itertuples()]
    # two texts that differ in invisible characters only look alike to whoever labels them
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
    records = formats.records(file)
    columns = [column.strip().casefold() for column in next(records, (0, []))[1]]
    if missing := [column for column in SHEET if columns.count(column) != 1]:
        said = f"columns are {excerpt(', '.join(filter(None, columns))) or 'missing'}"
        fix = f"each of {', '.join(SHEET)} must be there once, not {', '.join(missing)}"
        raise ValueError(f"{file}: line 1: {said}; {fix}")
    found = {}
    for line, record in records:
        # spreadsheets leave empty cells at the end of a line away
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
    if label not in ("", *STANCES):
        fix = f"write {', '.join(STANCES)} or nothing"
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
        # three digits are shown, as in 6.06E+22: at worst half a per cent off
        return given == name or math.isclose(number, float(name), rel_tol=0.005)
    except ValueError:
        return given == name
