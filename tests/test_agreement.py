"""Agreement between judges.

Measures by hand, intervals, biases that are put in and found, label sheets.
"""

import csv
import hashlib
import io

import numpy as np
import pandas as pd
import pytest

from vd.judging import agreement, sheets
from vd.stances import STANCES, P


def judges(n=400, error=0.2, seed=0):
    """Labels, a judge's stances that are wrong at that rate, and their questions."""
    rng = np.random.default_rng(seed)
    labels = pd.Series(rng.choice(STANCES, n))
    wrong = rng.random(n) < error
    seen = labels.where(~wrong, pd.Series(rng.choice(STANCES, n)))
    p = pd.DataFrame({f"p_{label}": (seen == label) * 1.0 for label in STANCES})
    return labels, p.assign(label=seen), pd.Series(np.arange(n) // 4)


def test_measures_by_hand():
    one = pd.Series(["support", "support", "oppose", "neutral", None])
    two = pd.Series(["support", "oppose", "oppose", "neutral", "support"])
    found = agreement.measures(one, two)
    assert found["n"] == 4 and found["accuracy"] == 0.75
    assert found["kappa"] == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    # eight values, 3 support, 3 oppose, 2 neutral: expected disagreement 1 - (6 + 6 + 2) / 56,
    # observed 1 / 4
    assert found["alpha"] == pytest.approx(1 - 0.25 / (1 - 14 / 56))


def test_agreement_without_choice_is_not_defined():
    same = pd.Series(["support"] * 5)
    assert (
        np.isnan(agreement.measures(same, same)["kappa"])
        and agreement.measures(same, same)["accuracy"] == 1
    )


def test_calibration_error_by_hand():
    labels = pd.Series(["support", "oppose", "neutral", "neutral"])
    scored = pd.DataFrame(
        {
            "p_support": [0.9, 0.9, 0.0, 0.0],
            "p_neutral": [0.1, 0.1, 0.9, 0.9],
            "p_oppose": [0.0] * 4,
        }
    )
    scored["label"] = ["support", "support", "neutral", "neutral"]
    quality = agreement.agreement(labels, scored)
    assert quality["accuracy"] == 0.75 and quality["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert quality["calibration_error"] == pytest.approx(0.15)
    assert agreement.confusion(labels, scored["label"]).loc["oppose", "support"] == 1


def test_intervals_contain_the_value_and_narrow_with_more_questions():
    widths = []
    for n in (100, 1600):
        labels, scored, questions = judges(n)
        table = agreement.with_intervals(labels, scored["label"], questions)
        assert ((table["lo"] <= table["value"]) & (table["value"] <= table["hi"])).all()
        widths.append(table.loc["kappa", "hi"] - table.loc["kappa", "lo"])
    assert widths[1] < widths[0] / 2


def test_pairs_of_judges():
    labels, scored, questions = judges()
    _, other, _ = judges(error=0.5, seed=0)
    table = agreement.between(
        {"labels": labels, "good": scored["label"], "bad": other["label"]}, questions, n_boot=50
    )
    assert list(zip(table["one"], table["two"], strict=True)) == [
        ("labels", "good"),
        ("labels", "bad"),
        ("good", "bad"),
    ]
    kappa = table["kappa"].tolist()
    assert kappa[0] > 0.7 > kappa[1] and (table["alpha"] - table["kappa"]).abs().max() < 0.05


def test_a_lean_that_was_put_in_is_found_where_it_is_and_nowhere_else():
    labels, scored, questions = judges(error=0.0)
    group = pd.Series(np.where(np.arange(400) % 8 < 4, "a", "b"))
    scored.loc[group == "a", "p_support"] += 0.3
    table = agreement.bias(labels, scored, questions, {"group": group}).set_index("group")
    assert table.loc["a", "lo"] > 0.2 and table.loc["a", "bias"] == pytest.approx(0.3, abs=0.05)
    assert table.loc["b", "lo"] <= 0 <= table.loc["b", "hi"] and table["right"].eq(1).all()
    scored.loc[:10, P] = np.nan
    assert agreement.bias(labels, scored, questions, {"group": group})["n"].sum() == 389


@pytest.fixture
def responses():
    rows = [
        {"run": run, "step": step, "prompt": f"Question {i}?", "response": f"{run}, {step}, {i}"}
        for run in "ab" for step in (0, 10) for i in range(30)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_label_sheet_is_blind_even_and_comes_back(responses, tmp_path):
    file = tmp_path / "sheet.csv"
    assert sheets.write_sheet(responses, 20, file) == 20
    sheet = pd.read_csv(file, keep_default_na=False)
    assert list(sheet) == sheets.SHEET and sheet["label"].eq("").all() and sheet["id"].is_unique
    drawn = sheet.merge(responses, on=["prompt", "response"])
    assert drawn.groupby(["run", "step"]).size().eq(5).all()
    sheet.loc[:4, "label"] = [" Support", "OPPOSE", "neutral", "support", "oppose"]
    sheet.to_csv(file, index=False)
    found = sheets.read_sheet(file)
    assert found["label"].tolist() == ["support", "oppose", "neutral", "support", "oppose"]
    with pytest.raises(FileExistsError, match="move it away"):
        sheets.write_sheet(responses, 20, file)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("label", "yes", "label 'yes'; write support, neutral, oppose or nothing"),
        ("response", "x", "only fill in label"),
    ],
)
def test_a_sheet_that_was_spoilt_says_where(responses, tmp_path, column, value, said):
    file = tmp_path / "sheet.csv"
    sheets.write_sheet(responses, 10, file)
    sheet = pd.read_csv(file, keep_default_na=False)
    sheet.loc[2, column] = value
    sheet.to_csv(file, index=False)
    with pytest.raises(ValueError, match=said) as error:
        sheets.read_sheet(file)
    assert str(file) in str(error.value) and sheet["id"][2] in str(error.value)


# where nothing can be compared


def test_a_judge_without_one_label_is_compared_to_nothing_and_said_to_be():
    labels, scored, questions = judges(20)
    silent = scored.assign(**dict.fromkeys([*P, "label"], None))
    found = agreement.agreement(labels, silent)
    assert found.pop("n") == 0 and set(found) == {*agreement.MEASURES, "calibration_error"}
    assert np.isnan(list(found.values())).all()
    table = agreement.between({"labels": labels, "API": silent["label"]}, questions, n_boot=5)
    assert table[["one", "two", "n"]].to_numpy().tolist() == [["labels", "API", 0]]
    assert table.drop(columns=["one", "two", "n"]).isna().all(axis=None)
    assert agreement.confusion(labels, silent["label"]).to_numpy().sum() == 0
    assert agreement.calibration(labels, silent).empty
    assert agreement.bias(labels, silent.astype({p: float for p in P}), questions,
                          {"all": questions * 0}).empty  # fmt: skip


def test_no_replies_at_all_are_compared_to_nothing():
    none = pd.Series([], dtype=object)
    assert agreement.measures(none, none)["n"] == 0
    assert agreement.between({"a": none, "b": none}, none)["n"].tolist() == [0]


# label sheets that went through the hands of people and spreadsheets

REPLIES = [
    ("Q31?", "yes"),  # whose id was 60567e18
    ("Why?", '=HYPERLINK("http://evil")'),
    ("=1+1?", "+1 for that"),
    ("Why, then?", "- one\n- two"),
    ("Who?", "@home"),
    ("When?", "\ttabs\r\nand lines\rof all kinds\n"),
    ("What is 1/2?", "1/2"),
    ("How much?", "007"),
    ("Is it true?", "TRUE"),
    ("Quotes?", 'He said "no"; so, no.'),
    ("Empty?", ""),
    ("Apostrophe?", "'tis so"),
    ("Odd?", "caf\u00e9 \u2019 \u5b57 \U0001f600 \0 \u2028 \x1b end"),
    ("Spaces?", "  two  spaces  "),
]


@pytest.fixture
def sheet(tmp_path):
    """A sheet of `REPLIES` as it is written, and its records."""
    file = tmp_path / "sheet.csv"
    table = pd.DataFrame(REPLIES, columns=["prompt", "response"])
    assert sheets.write_sheet(table.assign(run="r", step=0), 99, file) == len(REPLIES)
    text = file.read_bytes().decode("utf-8-sig")
    return file, list(csv.reader(io.StringIO(text, newline="")))


def labelled(records, label="support"):
    return [records[0], *([*record[:3], label] for record in records[1:])]


def save(file, records, mark=",", end="\r\n", encoding="utf-8"):
    text, quoting = io.StringIO(newline=""), csv.QUOTE_ALL if end == "\r" else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=mark, lineterminator=end, quoting=quoting).writerows(records)
    file.write_bytes(text.getvalue().encode(encoding))


def texts(found):
    return sorted(zip(found["prompt"], found["response"], strict=True))


def test_an_untouched_sheet_has_no_labels_yet(sheet):
    found = sheets.read_sheet(sheet[0])
    assert list(found) == sheets.SHEET and found.empty


def test_a_sheet_holds_no_formula_and_no_number_and_comes_back_unchanged(sheet):
    file, records = sheet
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    for record in records[1:]:
        assert not any(cell[:1] in set("=+-@\t\r") for cell in record if cell)
        assert record[0][0] == "r" and not any(cell in ("007", "1/2", "TRUE") for cell in record)
    save(file, labelled(records))
    found = sheets.read_sheet(file)
    assert texts(found) == sorted(REPLIES) and set(found["label"]) == {"support"}


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_sheet_is_read_as_any_spreadsheet_saves_it(sheet, mark, end, encoding):
    file, records = sheet
    records = labelled(records, " Oppose ")
    if end == "\r":  # then carriage returns end lines, and are none within texts
        records = [[" ".join(cell.split("\r")) for cell in record] for record in records]
    records[0] = ["ID ", "Prompt", " response", "LABEL"]
    wider = [["", *record[::-1], "", ""] for record in records]
    wider[0][-2], wider[3][-2] = "notes", "seen twice"
    save(file, [*wider, [""] * 7, ["", "", "", "", "", "done", ""]], mark, end, encoding)
    found = sheets.read_sheet(file)
    assert len(found) == len(REPLIES) and set(found["label"]) == {"oppose"}
    if end != "\r":
        assert texts(found) == sorted(REPLIES)


def test_spaces_line_ends_and_apostrophes_that_a_spreadsheet_drops_do_not_matter(sheet):
    file, records = sheet
    lost = [[" ".join(cell.removeprefix("'").split()) for cell in record] for record in records]
    save(file, labelled(lost))
    found = sheets.read_sheet(file)
    assert found["id"].tolist() == [record[0] for record in records[1:]]


def old_sheet(replies, change=lambda name: name):
    """A sheet as it was written before ids had a letter and texts were guarded."""
    rows = ["id,prompt,response,label"]
    for prompt, response in replies:
        name = hashlib.sha256(f"{prompt}\n{response}".encode()).hexdigest()[:8]
        rows.append(f"{change(name)},{prompt},{response},support")
    return "\n".join(rows) + "\n"


OLD = [("Q31?", "yes"), ("Why?", "bare\rreturn"), ("Who?", "'tis me"), ("Sum?", "=1+1")]
OLD += [(f"Number {n}?", "yes") for n in range(400)]


def spoilt(name):
    """An id as a spreadsheet gives it back."""
    try:
        number = float(name)
    except ValueError:
        return name
    return f"{number:.2E}" if "e" in name or number > 1e11 else f"{number:.0f}"


@pytest.mark.parametrize("change", [str, spoilt, lambda name: spoilt(name).replace(".", ",")])
def test_ids_that_a_spreadsheet_took_for_numbers_are_known_by_their_texts(tmp_path, change):
    assert spoilt("60567e18") == "6.06E+22" and spoilt("05674841") == "5674841"
    file = tmp_path / "sheet.csv"
    quoted = (lambda name: f'"{change(name)}"') if "," in change("60567e18") else change
    file.write_bytes(old_sheet(OLD, quoted).encode())
    found = sheets.read_sheet(file)
    assert list(zip(found["prompt"], found["response"], strict=True)) == OLD


def test_a_reply_that_was_changed_or_moved_is_still_found_out(sheet):
    file, records = sheet
    good = labelled(records)
    for row, column, value in ((3, 2, "something else"), (5, 1, "Why not?"), (2, 0, good[4][0])):
        records = [list(record) for record in good]
        records[row][column] = value
        save(file, records)
        with pytest.raises(ValueError, match=f"{file}: line .*only fill in label"):
            sheets.read_sheet(file)
    ids = [*[record[0] for record in good[2:]], good[1][0]]  # sorted away from their rows
    moved = [[name, *record[1:]] for name, record in zip(ids, good[1:], strict=True)]
    save(file, [good[0], *moved])
    with pytest.raises(ValueError, match=r"line \d+ .*only fill in label"):
        sheets.read_sheet(file)
    file.write_text(old_sheet(OLD, lambda name: "6.06E+22"))
    with pytest.raises(ValueError, match=r"line [34] \(6.06E\+22\): .*only fill in label"):
        sheets.read_sheet(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,prompt,response,label\nr1,?,\u2019,".encode("cp1252"), "line 2: .* save it as UTF-8"),
        ("id,prompt,response,label\n".encode("utf-16"), "not UTF-8, it looks like UTF-16"),
        (b"PK\x03\x04", "a workbook .*'CSV UTF-8'"),
        (b"", "line 1: columns are missing"),
        (b"id,prompt,response\n", "line 1: columns are id, prompt, response; .*, not label"),
        (b"id,prompt,response,label,label\n", "line 1: .*must be there once, not label"),
        (b'id,prompt,response,label\nr1,"Why?,So.,\n', "line 2: not CSV"),
    ],
)  # fmt: skip
def test_a_sheet_that_cannot_be_read_is_one_line(tmp_path, content, said):
    file = tmp_path / "sheet.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        sheets.read_sheet(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_reply_that_is_there_twice_is_named(sheet):
    file, records = sheet
    records = labelled(records)
    save(file, [*records, records[4]])
    with pytest.raises(ValueError, match=rf"line \d+ \({records[4][0]}\): .* is there twice"):
        sheets.read_sheet(file)


def test_a_sheet_holds_rare_openers_as_well(tmp_path):
    """Of 99 Yes and one No at each of five checkpoints it takes one of either before a second."""
    texts = [f"Yes, {i}." for i in range(99)] + ["No, never."]
    rows = [(step, f"{text} At {step}") for step in range(5) for text in texts]
    replies = pd.DataFrame(rows, columns=["step", "response"]).assign(run="r", prompt="Should it?")
    sheets.write_sheet(replies, 10, tmp_path / "sheet.csv")
    drawn = pd.read_csv(tmp_path / "sheet.csv")["response"].str.lstrip("'")
    assert sorted(drawn.str[:2]) == ["No"] * 5 + ["Ye"] * 5
