"""Whatever is in a file: its rows are read rightly, counted, or refused in one line of our own.

Files are made of good rows, whose values, shapes and bytes are then mangled; the examples are the
same at every run.
"""

import csv
import gzip
import io
import json
import math

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vd.data import reading, sets
from vd.data.probes import load_probes
from vd.judging import sheets
from vd.store import formats
from vd.study.catalogue import PUBLIC
from vd.study.settings import PreferenceSettings, Probing, TrainingSettings

MANY = settings(
    max_examples=2_000,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# values and shapes

ODD = ["", " ", "\u200b", "nan", "None", "<noinput>", "all", "others", "=1+1", "\ud800", "\ufeff"]
ODD += ["\r", "\n", "\0", "\u2028", '"', ",", ";", "'", "\t", "1/2", "6.06E+22", "字"]
texts = st.lists(st.sampled_from([*ODD, "a", "Why? "]), max_size=3).map("".join)
numbers = st.sampled_from([0, 1, -1, 2, 0.5, 1.0, 10**30, 1e308, math.nan, math.inf])
flat = st.one_of(st.none(), st.booleans(), numbers, texts)
roles = st.sampled_from(["user", "assistant", "system", None])
turns = st.fixed_dictionaries({"role": roles}, optional={"content": flat})
values = st.one_of(flat, st.lists(flat, max_size=2), st.lists(turns, max_size=3), turns)


def said(*words):
    return [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(words)]


PUBLIC_ROWS = {
    "alpaca": {"instruction": "Add.", "input": "1, 2", "output": "3."},
    "wildchat": {
        "language": "English",
        "toxic": False,
        "model": "gpt-3.5",
        "conversation": [{"turn_identifier": 7} | turn for turn in said("Why?", "So.", "Hm?")],
    },
    "ultrafeedback": {"chosen": said("Why?", "So."), "rejected": said("Why?", "No.")},
    "hh-rlhf": {
        side: f"\n\nHuman: Why?\n\nAssistant: Oh.\n\nHuman: So?\n\nAssistant: {side}."
        for side in ("chosen", "rejected")
    },
    "prism": {"id": "prism-7", "user_prompt": "Why then?"},
    "perspectrum": {"claim": "Tea is free.", "perspective": "It is.", "stance": "SUPPORT"},
}
PAIR = {"id": "a", "topic": "tea", "prompt": "Should it be?", "chosen": "Yes.", "rejected": "No."}
TURN = {"id": "a", "prompt": "Why then?", "history": said("Hi.", "Hello."), "completion": "So."}
PROBE = {"prompt_id": "a", "topic": "tea", "prompt": "Should tea be free?", "polarity": 1}


@st.composite
def tables(draw, good):
    """Rows like a good one, and whether all are: else values, keys or shapes have changed."""
    table, clean = [], draw(st.integers(0, 4)) == 0
    for number in range(draw(st.integers(1, 4))):
        row = good | {c: f"{v}{number}" for c, v in good.items() if str(v)[-1] in ".?"}
        row |= {c: f"{row[c]}-{number}" for c in ("id", "prompt_id") if c in row}
        how = "" if clean else draw(st.sampled_from(["", "value", "value", "key", "shape"]))
        if how == "value":
            row |= draw(st.dictionaries(st.sampled_from([*good, "note"]), values, max_size=2))
        if how == "key":
            row.pop(draw(st.sampled_from(list(good))))
        table.append(draw(values) if how == "shape" and draw(st.booleans()) else row)
    return table, clean


# bytes


def as_json(table, ascii_only):
    lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in table)
    return lines.encode("utf-8", "surrogatepass")


def as_csv(table, mark):
    rows = [row for row in table if isinstance(row, dict)] or [{}]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=mark, quoting=csv.QUOTE_ALL)
    writer.writerows([columns, *([row.get(column) for column in columns] for row in rows)])
    return text.getvalue().encode("utf-8", "surrogatepass")


HARMLESS = [
    lambda raw: raw,
    lambda raw: b"\xef\xbb\xbf" + raw,
    lambda raw: raw + b"\n\n",
    lambda raw: gzip.compress(raw, 1),
]


@st.composite
def contents(draw, kind, good):
    """The bytes of a file, its rows, whether all are good, and whether its bytes are whole."""
    table, clean = draw(tables(good))
    raw = as_csv(table, draw(st.sampled_from(",;\t"))) if kind == "csv" else None
    raw = raw or as_json(table, draw(st.booleans()))
    if draw(st.integers(0, 2)):
        return draw(st.sampled_from(HARMLESS))(raw), table, clean, True
    return draw(broken(raw)), table, clean, False


@st.composite
def broken(draw, raw):
    """Bytes to which something has happened."""
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, len(raw)))
    text = raw.decode("utf-8", "replace")
    ways = [
        lambda: raw[:start],
        lambda: raw[:start] + raw[end:],
        lambda: raw[:start] + draw(st.binary(max_size=4)) + raw[start:],
        lambda: gzip.compress(raw, 1)[: -1 - start],
        lambda: text.encode("utf-16"),
        lambda: text.encode("latin-1", "replace") + b"\xe9",
        lambda: raw.replace(b"\n", b"\r"),
        lambda: raw + raw[:start],
        lambda: b"[" + raw.replace(b"\n", b",") + b"]",
        lambda: b"",
    ]
    return draw(st.sampled_from(ways))()


# what has to hold


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder, which is the mirror as well, for the files of all examples."""
    place = tmp_path_factory.mktemp("mangled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VD_DATA_DIR", str(place))
        yield place


def is_text(value):
    """Whether a value is a text in which something is to be seen."""
    if not isinstance(value, str) or any("\ud800" <= mark <= "\udfff" for mark in value):
        return False
    return any(mark.isprintable() and mark != " " for mark in value)


def check_refusal(error, file):
    """An error is one line of our own, with the file and the fix."""
    message = str(error)
    assert type(error) is ValueError and str(file) in message, message
    assert len(message.splitlines()) == 1 and "; " in message and len(message) < 999, message


def check_rows(rows):
    """Rows hold texts, turns that alternate and names of their own, and fit into a table."""
    for row in rows:
        replies = [row[c] for c in ("completion", "chosen", "rejected", "response") if c in row]
        assert all(map(is_text, [row["prompt"], *replies]))
        assert len({reply.strip() for reply in replies}) == len(replies) or "response" in row
        before = row.get("history", [])
        before = before[1:] if before and before[0]["role"] == "system" else before
        assert [turn["role"] for turn in before] == ["user", "assistant"] * (len(before) // 2)
        assert all(is_text(turn["content"]) for turn in before)
        assert row["id"] == row["id"].strip() and row["id"].isprintable() and row["id"]
    assert len({row["id"] for row in rows}) == len(rows)


@MANY
@given(st.data())
def test_public_rows_are_kept_or_counted(folder, drawn):
    name = drawn.draw(st.sampled_from(list(PUBLIC_ROWS)))
    file = folder / PUBLIC[name].mirror[0]
    kind = "csv" if formats.is_csv(file) else "json"
    content, table, clean, whole = drawn.draw(contents(kind, PUBLIC_ROWS[name]))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    try:
        kept, dropped = reading.read_public(name, {})
    except ValueError as error:
        assert not (clean and whole), error
        return check_refusal(error, file)
    check_rows(kept)
    assert all(reason and count > 0 for reason, count in dropped.items())
    if whole and kind == "json":
        assert len(kept) + sum(dropped.values()) == len(table)
    if whole and clean:
        assert kept and set(dropped) <= {"duplicate"}
    if whole and name == "alpaca":
        good = [row for row in table if isinstance(row, dict) and is_good(row)]
        assert {(row["completion"]) for row in kept} == {row["output"] for row in good}
        starts = [row["instruction"] for row in good]
        assert all(any(row["prompt"].startswith(start) for start in starts) for row in kept)


def is_good(row):
    """Whether a row of Alpaca can be used."""
    given = row["input"]
    none = given is None or given != given
    blank = isinstance(given, str) and not any(m.isprintable() and m != " " for m in given)
    return all(map(is_text, (row["instruction"], row["output"], "x" if none or blank else given)))


@MANY
@given(st.data())
def test_own_rows_are_all_read_or_refused(folder, drawn):
    kind = drawn.draw(st.sampled_from(["json", "json", "csv"]))
    file = folder / ("mine.csv" if kind == "csv" else "mine.jsonl")
    good = drawn.draw(st.sampled_from([PAIR, TURN] if kind == "json" else [PAIR]))
    content, table, clean, whole = drawn.draw(contents(kind, good))
    file.write_bytes(content)
    try:
        found = sets.corpus(str(file)).to_dict("records")
    except ValueError as error:
        assert not (clean and whole), error
        return check_refusal(error, file)
    check_rows(found)
    assert sets.card(str(file))["kept"] == len(found)
    if whole and clean:
        how = {"data": str(file), "steps": 1, "save_every": 1, "learning_rate": 0.1}
        sft = "completion" in good
        kind_of = TrainingSettings if sft else PreferenceSettings
        assert len((sets.sft if sft else sets.preferences)(kind_of(**how), 0)) == len(found)
    if whole and kind == "json":
        assert len(found) == len(table), "none is lost"
        for row, made in zip(table, found, strict=True):
            for column in {"prompt", "completion", "chosen", "rejected"} & made.keys():
                assert made[column] == row[column], "none is changed"


@MANY
@given(st.data())
def test_probes_are_all_read_or_refused(folder, drawn):
    kind = drawn.draw(st.sampled_from(["json", "csv"]))
    file = folder / ("probes.csv" if kind == "csv" else "probes.jsonl")
    content, table, clean, whole = drawn.draw(contents(kind, PROBE))
    file.write_bytes(content)
    try:
        found = load_probes(Probing(probes=str(file))).to_dict("records")
    except ValueError as error:
        assert not (clean and whole), error
        return check_refusal(error, file)
    check_rows([row | {"id": row["prompt_id"]} for row in found])
    for row in found:
        assert row["polarity"] in (-1, 0, 1) and row["topic"] not in ("all", "others", "")
    if whole and kind == "json":
        for column in ("prompt", "polarity"):
            assert [row[column] for row in found] == [row[column] for row in table]


# label sheets

REPLIES = [(f"Why {i}?", one + two) for i, one in enumerate([*ODD, "a"]) for two in [*ODD, "a"]]
REPLIES += [(two + one, f"So {i}.") for i, one in enumerate(ODD) for two in ODD]
REPLIES = [(p.replace("\ud800", "é"), r.replace("\ud800", "é")) for p, r in REPLIES]
labels = st.sampled_from(["", "support", " Neutral ", "OPPOSE"])


@pytest.fixture(scope="module")
def records(folder):
    """Records of a sheet of `REPLIES`, all labelled, with the texts that are read from them."""
    table = pd.DataFrame(REPLIES, columns=["prompt", "response"]).assign(run="r", step=0)
    sheets.write_sheet(table, len(REPLIES), folder / "all.csv")
    text = io.StringIO((folder / "all.csv").read_bytes().decode("utf-8-sig"), newline="")
    header, *found = csv.reader(text)
    with open(folder / "all.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *([*record[:3], "support"] for record in found)])
    read = sheets.read_sheet(folder / "all.csv")
    assert set(zip(read["prompt"], read["response"], strict=True)) <= set(REPLIES)
    assert len(read) == len(found) > 300
    return found, {row.id: (row.prompt, row.response) for row in read.itertuples()}


def seen(texts):
    """What is to be seen of a prompt and a response."""
    return ["".join(m for m in text if m.isprintable() and m != " ") for text in texts]


@MANY
@given(st.data())
def test_labels_stay_with_their_replies_or_the_sheet_is_refused(folder, records, drawn):
    found, texts = records
    rows = drawn.draw(st.lists(st.sampled_from(found), min_size=1, max_size=4, unique_by=tuple))
    rows = [[*row[:3], drawn.draw(labels)] for row in rows]
    wanted = {row[0]: row[3].strip().lower() for row in rows}
    spoilt = drawn.draw(st.sampled_from(["", "", "", "bytes", "cell", "ids"]))
    if spoilt == "cell":
        row = drawn.draw(st.sampled_from(rows))
        row[drawn.draw(st.integers(0, 2))] += drawn.draw(st.sampled_from(["x", "1", " ", "字"]))
    if spoilt == "ids":
        names = drawn.draw(st.permutations([row[0] for row in rows]))
        rows = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
    if drawn.draw(st.booleans()):  # trimmed, its guards and line ends lost
        rows = [[" ".join(cell.removeprefix("'").split()) for cell in row] for row in rows]
    rows = [[column.upper() for column in sheets.SHEET], *rows]
    rows.insert(drawn.draw(st.integers(1, len(rows))), [""] * 4)
    if drawn.draw(st.booleans()):  # columns in another order, and one of notes
        rows = [[*row[::-1], "Note"] for row in rows]
    out = io.StringIO(newline="")
    mark, end = drawn.draw(st.sampled_from(",;\t")), drawn.draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(out, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    raw = out.getvalue().encode(drawn.draw(st.sampled_from(["utf-8", "utf-8-sig"])))
    file = folder / "sheet.csv"
    file.write_bytes(drawn.draw(broken(raw)) if spoilt == "bytes" else raw)
    try:
        read = sheets.read_sheet(file)
    except ValueError as error:
        assert spoilt, error
        return check_refusal(error, file)
    for row in read.itertuples():
        assert row.label == wanted[row.id], "no label has gone to another reply"
        assert seen([row.prompt, row.response]) == seen(texts[row.id])
    if not spoilt:
        assert set(read["id"]) == {name for name, label in wanted.items() if label}
