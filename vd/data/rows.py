"""One place that turns rows of others into ours, or says in words why a row cannot be used.

Rows of public data sets are never trusted: one that cannot be used is left out and counted under
its reason (vd/data/reading.py). A user's own rows are never lost: they are read, or refused with
file, row and fix. Both pass the same checks: `find_fault` for texts, `name` for ids and topics.
"""

import json
import math
import re
from collections.abc import Collection
from pathlib import Path

from vd.store import formats
from vd.store.shown import excerpt

TEXTS = ("prompt", "completion", "chosen", "rejected", "response")
LISTS = ("completions", "labels")  # the steps of a solution, and whether each is right
NAMES = ("topic", "chosen_stance", "rejected_stance")
RESERVED = ("all", "others")  # topics of our tables: the sum, and small topics together
NOTHING = {"na", "n/a", "#n/a", "<na>", "nan", "none", "null"}  # how tools write a missing name
FIX = (
    "every row needs plain text in prompt and completion (texts), or in prompt, chosen and "
    "rejected, which differ (pairs), or in prompt, with a list of texts in completions and true or "
    "false for each in labels (steps); earlier turns stand in history"
)


class Unusable(ValueError):
    """Why a row cannot be used, in words that a card can count."""


def text(value) -> str:
    """A text as somebody wrote it; raises Unusable if it is none or nothing is to be seen in it."""
    if is_null(value):
        raise Unusable("no text")
    if not isinstance(value, str):
        raise Unusable("not a text")
    if is_blank(value):
        raise Unusable("empty text")
    if not _encodes(value):
        raise Unusable("undecodable text")
    return value


def turns(value) -> list[dict]:
    """Messages by user and assistant in turn, with role and content alone; raises Unusable."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise Unusable("no conversation")
    # twice as long as needed, so that odd and even numbers of turns compare alike
    roles = ["user", "assistant"] * len(value)
    if [turn.get("role") for turn in value] != roles[: len(value)]:
        raise Unusable("turns do not alternate")
    return [{"role": turn["role"], "content": text(turn.get("content"))} for turn in value]


def pair(chosen: list[dict], rejected: list[dict]) -> dict | str:
    """A pair from two conversations."""
    chosen, rejected = turns(chosen), turns(rejected)
    # turns begin with the user's, so an even number ends in a reply
    if not chosen or len(chosen) % 2 or len(chosen) != len(rejected):
        return "turns do not alternate"
    if chosen[:-1] != rejected[:-1]:
        return "parts before the last reply"
    *history, prompt, reply = chosen
    replies = {"chosen": reply["content"], "rejected": rejected[-1]["content"]}
    return {"prompt": prompt["content"], "history": history, **replies}


def stance(prompt, response, label: str | None) -> dict | str:
    """A reply with the side that it takes; without one, `label` is None, there is no stance."""
    return {"prompt": prompt, "response": response, "label": label} if label else "no stance"


def name(value) -> str | None:
    """An id or a topic as text on one line, None where it is missing; raises Unusable.

    Names stand in tables, so none may be what a spreadsheet would compute.
    """
    if is_null(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # how pandas writes whole numbers where some are missing
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable("no name; write a text or a number")
    word = " ".join(str(value).split())
    if not word or word.casefold() in NOTHING:
        return None
    # a whole number below 0 stays what it is in a spreadsheet
    if word[0] in "=+-@" and not re.fullmatch(r"-?\d+", word):
        raise Unusable(f"'{excerpt(word)}' begins like a formula; write another name")
    if not word.isprintable():
        raise Unusable(f"'{excerpt(word)}' holds invisible characters; write another name")
    return word


def find_fault(row: dict) -> tuple[str, str] | None:
    """What is wrong with the texts of a row, and in which column; None if all can be used."""
    column = ""
    try:
        # `column` outlives the loop: the except clause says where it failed
        for column in filter(row.__contains__, TEXTS):
            text(row[column])
        column = "history"
        _check_history(row.get("history", []))
        # either column alone may mean anything, and so may both beside replies of another kind
        if row.keys() >= set(LISTS) and not row.keys() & {"completion", "chosen"}:
            column = "completions"
            _check_steps(row["completions"])
            column = "labels"
            _check_labels(row["labels"], len(row["completions"]))
    except Unusable as error:
        return str(error), column
    # A preference between equal texts has no gradient, or one of rounding errors.
    if row.get("chosen") and row["chosen"].strip() == row.get("rejected", "").strip():
        return "equal replies", "rejected"
    return None


def free_name(wanted: str, taken: Collection[str]) -> str:
    """A name that is not taken: the one wanted, or that with a number behind it."""
    number, found = 1, wanted
    while found in taken:
        number += 1
        found = f"{wanted}-{number}"
    return found


def read_own(file: Path, data: str, key: str = "id") -> list[dict]:
    """All rows of a user's file, with unique names under `key`; raises ValueError.

    Each has a text in `prompt` and in every other column of `TEXTS` that any row fills. Missing
    names are made of the file's name and the row's number. Columns without content are left out.
    """
    # All rows are looked at before any is checked: which columns there are is known only then.
    found = {}
    for number, row in formats.rows(file):
        if isinstance(row, str):
            raise ValueError(f"{file}: row {number}: {row}; correct or remove it")
        found[number] = row
    if not found:
        raise ValueError(f"{file}: row 1: there is none; add rows, or name another file")
    # a dict rather than a set, for its order: that of the file
    filled = {c: 0 for row in found.values() for c, value in row.items() if not is_null(value)}
    # One side of a pair that no row fills is a mistake; a column that no row fills is none.
    both = {"chosen", "rejected"} if filled.keys() & {"chosen", "rejected"} else set()
    columns = [c for c in TEXTS if c in filled.keys() | both | {"prompt"}]
    columns += [c for c in filled if c not in (*columns, key)]
    table, rows_of = [], {}
    for number, row in found.items():
        # probes may be named by id, as other rows are
        given = row.get(key) if key == "id" or not is_null(row.get(key)) else row.get("id")
        row = {key: given} | {column: row.get(column) for column in columns}
        # cells of a CSV are texts; JSON has numbers, so "1" is a mistake there
        if formats.is_csv(file) and isinstance(row.get("polarity"), str):
            row["polarity"] = _whole_number(row["polarity"])
        table.append(_checked(row, key, f"data set '{data}': row {number}"))
        # as it was normalised: 1 and "1" are one name
        given = table[-1][key]
        if given in rows_of:
            twice = f"{key} must be unique, '{excerpt(given)}' is that of row {rows_of[given]} too"
            raise ValueError(f"data set '{data}': row {number}: {twice}; rename or remove one")
        rows_of |= {given: number} if given else {}
    # in a second pass, lest a made name be that of a row further down
    for number, row in zip(found, table, strict=True):
        row[key] = row[key] or free_name(f"{formats.stem(file)}-{number}", rows_of)
        rows_of[row[key]] = number
    return table


def is_null(value) -> bool:
    """Whether a value is missing: null, or the number by which pandas writes it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_blank(value: str) -> bool:
    """Whether nothing is to be seen in a text, such as one of spaces, some of no width."""
    return not any(mark.isprintable() and mark != " " for mark in value)


def _checked(row: dict, key: str, place: str) -> dict:
    """A row of our own whose names are text; raises ValueError with its place and the fix."""
    for column in dict.fromkeys([key, *(column for column in NAMES if column in row)]):
        try:
            row[column] = name(row[column])
        except Unusable as error:
            raise ValueError(f"{place}: {column}: {error}") from None
    if row.get("topic") in RESERVED:
        said = f"'{row['topic']}' stands for several topics in our tables; write another name"
        raise ValueError(f"{place}: topic: {said}")
    if "history" in row:
        row["history"] = [] if is_null(row["history"]) else row["history"]
    if found := find_fault(row):
        there = excerpt(", ".join(column for column in row if not is_null(row[column])) or "none")
        raise ValueError(f"{place}: {found[0]} '{found[1]}'; its columns are {there}; {FIX}")
    try:
        # columns of other names are carried along into tables, so they are checked as well
        whole = _encodes(json.dumps(row, ensure_ascii=False))
    except RecursionError:
        raise ValueError(f"{place}: nested too deeply; correct or remove it") from None
    if not whole:
        raise ValueError(f"{place}: undecodable text (half a character); correct or remove it")
    return row


def _check_history(history) -> None:
    """Earlier turns end with the assistant's, and may begin with a system message."""
    # an odd history may hold anything; `turns` below says what is wrong with it
    first = history[0] if isinstance(history, list) and history else None
    if isinstance(first, dict) and first.get("role") == "system":
        text(first.get("content"))
        history = history[1:]
    # the prompt follows, which is the user's
    if len(turns(history)) % 2:
        raise Unusable("turns do not alternate")


def _check_steps(steps) -> None:
    """The steps of a solution are texts, at least one."""
    if not isinstance(steps, list) or not steps:
        raise Unusable("no list of steps")
    for step in steps:
        text(step)


def _check_labels(labels, steps: int) -> None:
    """Every step is right or wrong; 0 and 1 are refused, for some data sets mean -1, 0 and 1."""
    if not isinstance(labels, list) or not all(isinstance(label, bool) for label in labels):
        raise Unusable("no list of true and false")
    if len(labels) != steps:
        raise Unusable("not one label for each step")


def _whole_number(cell: str) -> int | str:
    """A cell of a CSV as the whole number that it shows; as it is, if it shows none."""
    # one digit will do for polarities; spreadsheets may write +1 or -1.0
    return int(float(cell)) if re.fullmatch(r"\s*[+-]?\d(\.0*)?\s*", cell) else cell


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
