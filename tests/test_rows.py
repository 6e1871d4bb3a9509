"""Rows that people made: all are read, or the first that cannot be is named with its fix."""

import gzip
import json

import pytest

from vd.data import rows, sets, topics
from vd.data.probes import load_probes
from vd.drift import data_sets
from vd.store import formats
from vd.study.settings import Bootstrap, PreferenceSettings, Probing, TrainingSettings

PAIR = {"prompt": "Should tea be free?", "chosen": "Yes.", "rejected": "No."}
TURN = {"prompt": "Why then?", "completion": "So."}


def jsonl(*table):
    return "".join(json.dumps(row) + "\n" for row in table)


@pytest.fixture
def put(tmp_path):
    """Write a file as bytes or text; returns its name as a study would write it."""

    def write(content, name="mine.jsonl"):
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write


def settings_of(kind, name, **more):
    return kind(data=name, steps=1, save_every=1, learning_rate=1e-3, **more)


def refused(name, read=sets.corpus):
    """The one line by which a file is refused."""
    with pytest.raises(ValueError) as error:
        read(name)
    said = str(error.value)
    assert name in said and "\n" not in said and ";" in said, said
    return said


# files


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + jsonl(TURN),
        jsonl(TURN) + "\n",
        "\n" + jsonl(TURN).replace("\n", "\r\n"),
        jsonl(TURN).rstrip(),
        gzip.compress(jsonl(TURN).encode(), mtime=0),
    ],
    ids=["byte-order mark", "two newlines at the end", "Windows", "no newline", "packed"],
)
def test_json_lines_are_read_as_any_program_writes_them(put, content):
    expected = [TURN | {"id": f"mine-{2 if content[:1] == chr(10) else 1}"}]
    assert sets.corpus(put(content)).to_dict("records") == expected


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv_is_read_as_any_spreadsheet_writes_it(put, mark, end, start):
    table = [["id", " prompt ", "completion", ""], ["7", '"Why, ""then""; or\tnot?"', "So.", "1"]]
    table += [["", "What?", "007", "2"], ["", "", "", ""]]
    content = start + end.join(mark.join(row) for row in table) + end
    found = sets.corpus(put(content, "mine.csv")).to_dict("records")
    first = {"id": "7", "prompt": 'Why, "then"; or\tnot?', "completion": "So."}
    assert found == [first, {"id": "mine-2", "prompt": "What?", "completion": "007"}]


def test_long_fields_and_odd_characters_come_through_unchanged(put):
    text = "word " * 28_000 + "\u2028 \x85 \r\n \r \0 \v é 字 end"
    for content, name in (
        (jsonl(TURN | {"completion": text}), "mine.jsonl"),
        (json.dumps(TURN | {"completion": text}, ensure_ascii=False), "mine.jsonl"),
        (f'prompt,completion\nWhy then?,"{text}"\n', "mine.csv"),
        (
            gzip.compress(f'prompt,completion\nWhy then?,"{text}"\n'.encode(), mtime=0),
            "mine.csv.gz",
        ),
    ):
        found = sets.corpus(put(content, name)).to_dict("records")
        assert found == [{"id": "mine-1", "prompt": "Why then?", "completion": text}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (jsonl(TURN).encode("utf-16"), "not UTF-8, it looks like UTF-16"),
        (jsonl(TURN).encode("utf-16-le"), "not UTF-8, it looks like UTF-16"),
        ('{"prompt": "Café?"}\n'.encode("cp1252"), r"row 1: not UTF-8, it looks like Latin-1"),
        (b"PK\x03\x04\x14\0", "a workbook or another zip file"),
        (b"PAR1\x15\x04", "it looks like Parquet"),
        (
            gzip.compress(jsonl(TURN, PAIR).encode(), mtime=0)[:-9],
            "row [123]: a broken or cut gzip file",
        ),
        (b"\x1f\x8bno archive", "row 1: a broken or cut gzip file"),
        (jsonl(TURN) + '{"prompt":', "row 2: not JSON"),
        (jsonl(TURN) + json.dumps(TURN) + ",", "row 2: not JSON"),
        (json.dumps([TURN, TURN]), "row 1: a JSON array; every line must be one object"),
        (json.dumps([TURN, TURN], indent=1), "row 1: not JSON .*every line must be one object"),
        (json.dumps(TURN, indent=1), "row 1: not JSON .*every line must be one object"),
        (jsonl(TURN, None), "row 2: not an object"),
        (jsonl(TURN, [1]), "row 2: not an object"),
        (jsonl("abc"), "row 1: not an object"),
        ('{"a":' * 9999 + "1" + "}" * 9999, "row 1: nested too deeply"),
        ('{"prompt": "a", "prompt": "b"}', "row 1: a key is there twice"),
        ('{"prompt": ' + "9" * 5000 + "}", "row 1: not JSON .*digits"),
        ("Why then?\nWhat now?\n", "row 1: not JSON"),
        ("", "row 1: there is none"),
        ("\n\n", "row 1: there is none"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(put, content, said):
    name = put(content)
    with pytest.raises(ValueError, match=said):
        sets.corpus(name)
    refused(name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prompt,completion\nWhy?,So.\nWhat?\n", "row 2: fewer fields than columns"),
        ("prompt,completion\nWhy?,So, or not.\n", "row 1: more fields than columns"),
        ("prompt,prompt\nWhy?,So.\n", "column 'prompt' is there twice"),
        ('prompt,completion\nWhy?,"So.\n', "line 2: not CSV"),
        ('prompt,completion\nWhy?,"So" it is.\n', "line 2: not CSV"),
        ("prompt,completion\n", "there is none"),
        ("Why?,So.\nWhat?,No.\n", "row 1: no text 'prompt'; its columns are Why?, So."),
        ("prompt,completion\nCafé,So.\n".encode("latin-1"), "line 2: not UTF-8"),
        ("prompt,completion\nWhy?,\nWhat?,So.\n", "row 1: no text 'completion'"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused_in_one_line(put, content, said):
    name = put(content, "mine.csv")
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        sets.corpus(name)
    refused(name)


def test_a_folder_or_no_file_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "mine.jsonl").mkdir()
    assert "Is a directory; name a file" in refused(str(tmp_path / "mine.jsonl"))
    with pytest.raises(ValueError, match=r"no data set '.*other.jsonl'.*make it first"):
        sets.corpus(str(tmp_path / "other.jsonl"))


# names


def test_ids_are_made_where_they_are_missing_and_numbers_become_text(put):
    given = [None, 7, 7.5, "mine-1", 3.0, "a  b", "", float("nan"), "007", "nan"]
    table = sets.corpus(put(jsonl(*({"id": value} | TURN for value in given))))
    made = ["mine-1-2", "7", "7.5", "mine-1", "3", "a b", "mine-7", "mine-8", "007", "mine-10"]
    assert table["id"].tolist() == made


def test_two_rows_with_one_id_are_both_named(put):
    table = [TURN | {"id": value} for value in (1, "b", "1")]
    assert "row 3: id must be unique, '1' is that of row 1 too" in refused(put(jsonl(*table)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": True}, "row 2: id: no name; write a text or a number"),
        ({"id": [1]}, "row 2: id: no name"),
        ({"id": "=1+1"}, "row 2: id: '=1\\+1' begins like a formula"),
        ({"topic": "@tea"}, "row 2: topic: '@tea' begins like a formula"),
        ({"topic": "a\x1b[31m"}, "row 2: topic: .* invisible characters"),
        ({"topic": "all"}, "row 2: topic: 'all' stands for several topics"),
        ({"topic": " others\n"}, "row 2: topic: 'others' stands for several topics"),
        ({"topic": {}}, "row 2: topic: no name"),
    ],
)
def test_names_that_no_table_can_hold_are_refused(put, change, said):
    name = put(jsonl(PAIR | {"id": "x", "topic": "tea"}, PAIR | change))
    with pytest.raises(ValueError, match=said):
        sets.corpus(name)
    refused(name)


def test_topics_are_text_and_missing_ones_are_missing(put):
    given = [1, 2.0, None, "nan", " death  penalty", "None"]
    table = sets.corpus(put(jsonl(*(PAIR | {"topic": topic} for topic in given))))
    known = table["topic"].astype(object).where(table["topic"].notna(), None).tolist()
    assert known == ["1", "2", None, None, "death penalty", None]


def test_topics_that_no_row_names_are_found(put):
    table = [PAIR | {"prompt": "Should abortion be legal?", "topic": "nan"}, PAIR | {"topic": None}]
    found = topics.with_topics(put(jsonl(*table)), at_most=9)
    assert found["topic"].tolist()[0] == "abortion" and found["id"].tolist() == ["mine-1", "mine-2"]


# texts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": None}, "no text 'chosen'"),
        ({"chosen": float("nan")}, "no text 'chosen'"),
        ({"chosen": ""}, "empty text 'chosen'"),
        ({"chosen": " \n\u200b"}, "empty text 'chosen'"),
        ({"chosen": 7}, "not a text 'chosen'"),
        ({"chosen": [{"role": "assistant", "content": "Yes."}]}, "not a text 'chosen'"),
        ({"chosen": "a\ud800"}, "undecodable text 'chosen'"),
        ({"note": ["\udfff"]}, "undecodable text"),
        ({"rejected": " Yes. "}, "equal replies 'rejected'"),
        ({"prompt": {}}, "not a text 'prompt'"),
        ({"history": "Hello."}, "no conversation 'history'"),
        ({"history": [{"role": "user", "content": "Hi."}]}, "turns do not alternate 'history'"),
        ({"history": [{"role": "assistant", "content": "Hi."}] * 2}, "turns do not alternate"),
        ({"history": [{"from": "human", "value": "Hi."}] * 2}, "turns do not alternate"),
        ({"history": [{"role": "user"}, {"role": "assistant"}]}, "no text 'history'"),
    ],
)
def test_a_row_of_ours_without_its_texts_is_named(put, change, said):
    name = put(jsonl(PAIR, PAIR | change))
    with pytest.raises(ValueError, match=f"row 2: {said}.*; "):
        sets.preferences(settings_of(PreferenceSettings, name), seed=0)
    refused(name)


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Yes."}]},
        {"messages": [{"role": "user", "content": "Hi."}]},
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"text": "Why then?"},
    ],
    ids=["ShareGPT", "chat", "Alpaca", "plain"],
)
def test_rows_of_another_kind_are_told_which_columns_to_write(put, row):
    said = refused(put(jsonl(row)))
    assert f"row 1: no text 'prompt'; its columns are {', '.join(row)}" in said
    assert "prompt and completion (texts), or in prompt, chosen and rejected" in said


def test_columns_that_no_row_fills_are_as_good_as_absent(put):
    """As `datasets` writes a table of pairs that was joined with one of replies."""
    row = {"id": None, "topic": None, "history": None, "completion": None, "score": 1} | PAIR
    expected = [{"id": f"mine-{n}", **PAIR, "score": 1} for n in (1, 2)]
    assert sets.corpus(put(jsonl(row, row))).to_dict("records") == expected


def test_a_history_in_some_rows_is_none_in_the_others(put):
    before = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    system = [{"role": "system", "content": "Be brief."}, *before]
    table = [PAIR, PAIR | {"history": before}, PAIR | {"history": None}, PAIR | {"history": system}]
    read = sets.preferences(settings_of(PreferenceSettings, put(jsonl(*table))), seed=0)
    asked = {"role": "user", "content": PAIR["prompt"]}
    assert read["prompt"][:] == [[asked], [*before, asked], [asked], [*system, asked]]


def test_texts_are_kept_as_they_are(put):
    text = "  Why?\n\n<b>then</b> \u202e =1+1\t\n"
    found = sets.sft(settings_of(TrainingSettings, put(jsonl(TURN | {"prompt": text}))), seed=0)
    assert found[0]["prompt"] == [{"role": "user", "content": text}]


def test_no_row_of_ours_is_dropped_as_a_duplicate(put):
    assert sets.card(put(jsonl(TURN, TURN)))["kept"] == 2
    assert sets.card(put(jsonl(TURN, TURN)))["dropped"] == {}


# what becomes of them


def test_pairs_with_the_documented_columns_alone_are_measured(put):
    ours = sets.corpus("value_gap").head(40)
    pairs = [{c: row[c] for c in PAIR} for row in ours.to_dict("records")]
    numbered = [{"id": n} | pair for n, pair in enumerate(pairs)]
    for table, first in ((pairs, "mine-1"), (numbered, "0")):
        found = topics.with_topics(put(jsonl(*table)), at_most=100).dropna(subset="topic")
        assert len(found) > 30 and found["id"].iloc[0] == first
        sides = found.rename(columns={"id": "prompt_id"}).assign(p_neutral=0.0)
        chosen = sides.assign(p_support=1.0, p_oppose=0.0)
        gap = data_sets.value_gap(
            chosen, sides.assign(p_support=0.0, p_oppose=1.0), Bootstrap(resamples=20)
        )
        support = gap[(gap["topic"] == "all") & (gap["stance"] == "support")].iloc[0]
        assert support["n_pairs"] == len(found) and support["gap"] == pytest.approx(1)


def test_columns_of_a_file_do_not_collide_with_those_of_tables(put):
    row = PAIR | {"prompt_id": "same", "dataset": 3, "label": "x", "response": "r", "p_support": 1}
    found = topics.with_topics(put(jsonl(row, row | {"topic": "tea"})), at_most=9)
    assert list(found) == ["id", "topic", "prompt", "chosen", "rejected", "dataset"]
    assert found["id"].is_unique


# probes

PROBE = {"prompt_id": "a", "topic": "tea", "prompt": "Should tea be free?", "polarity": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"polarity": None}, "b: column polarity: every row needs a int, not None"),
        ({"polarity": 1.0}, "b: column polarity: every row needs a int, not 1.0"),
        ({"polarity": "1"}, "b: column polarity: every row needs a int, not '1'"),
        ({"polarity": True}, "b: column polarity: every row needs a int, not True"),
        ({"polarity": 3}, "b: column polarity: 3; write polarity one of -1, 0 and 1"),
        ({"prompt_id": "a"}, "row 2: prompt_id must be unique, 'a' is that of row 1 too"),
        ({"topic": " "}, "b: column topic: every row needs a str"),
        ({"topic": "all"}, "row 2: topic: 'all' stands for several topics"),
        ({"prompt": "\n"}, "row 2: empty text 'prompt'"),
    ],
)
def test_a_probe_that_cannot_be_asked_is_named(put, change, said):
    name = put(jsonl(PROBE, PROBE | {"prompt_id": "b"} | change))
    with pytest.raises(ValueError, match=said):
        load_probes(Probing(probes=name))
    refused(name, lambda name: load_probes(Probing(probes=name)))


def test_probes_are_named_and_numbered_like_other_rows(put):
    table = [PROBE | {"prompt_id": 1}, PROBE | {"prompt_id": None}, PROBE | {"prompt_id": 2.0}]
    found = load_probes(Probing(probes=put(jsonl(*table))))
    assert found["prompt_id"].tolist() == ["1", "mine-2", "2"]
    assert found["polarity"].tolist() == [1, 1, 1] and set(found["topic"]) == {"tea"}
    content = "id,topic,prompt,polarity\na,tea,Why?,+1\nb,1,What?,-1.0\n,tea,Who?,0\n"
    found = load_probes(Probing(probes=put(content, "mine.csv")))
    assert found["prompt_id"].tolist() == ["a", "b", "mine-3"]
    assert found["polarity"].tolist() == [1, -1, 0]
    assert found["topic"].tolist() == ["tea", "1", "tea"]


def test_the_one_list_of_endings_says_what_a_file_of_rows_is():
    assert all(formats.is_file(f"some/where/mine{ending}") for ending in formats.ENDINGS)
    assert not any(map(formats.is_file, ("sft_neutral", "alpaca", "mine.json", "mine.txt")))
    assert {formats.stem(f"x/mine{ending}") for ending in formats.ENDINGS} == {"mine"}


def test_a_free_name_is_the_wanted_one_or_has_a_number():
    assert rows.free_name("a", ()) == "a" and rows.free_name("a", {"a", "a-2"}) == "a-3"


def test_every_reason_is_one_that_a_card_can_count():
    for value, reason in ((None, "no text"), (1, "not a text"), ("", "empty text")):
        with pytest.raises(rows.Unusable, match=reason):
            rows.text(value)
    assert rows.find_fault(PAIR) is None and rows.find_fault(TURN) is None


# steps


STEPS = {"prompt": "2 + 2 * 3?", "completions": ["2 * 3 is 6.", "So 12."], "labels": [True, False]}


def test_labelled_steps_are_read_as_trl_takes_them(put):
    name = put(jsonl(STEPS, STEPS | {"prompt": "1 + 1?", "completions": ["2"], "labels": [True]}))
    read = sets.READERS["steps"](settings_of(TrainingSettings, name), 0)
    assert read.column_names == ["prompt", "completions", "labels"]
    assert read[0] == STEPS and read[1]["labels"] == [True]
    asked = sets.READERS["prompts"](settings_of(TrainingSettings, name), 0)
    assert asked[:] == {"prompt": [[{"role": "user", "content": r["prompt"]}] for r in read]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completions": "2 * 3 is 6."}, "no list of steps 'completions'"),
        ({"completions": []}, "no list of steps 'completions'"),
        ({"completions": ["So.", " "]}, "empty text 'completions'"),
        ({"completions": ["So.", None]}, "no text 'completions'"),
        ({"completions": None}, "no list of steps 'completions'"),
        ({"labels": None}, "no list of true and false 'labels'"),
        ({"labels": [1, 0]}, "no list of true and false 'labels'"),
        ({"labels": [True]}, "not one label for each step 'labels'"),
    ],
)
def test_steps_that_cannot_be_learnt_from_are_named(put, change, said):
    name = put(jsonl(STEPS, STEPS | change))
    with pytest.raises(ValueError, match=f"data set '{name}': row 2: {said}; .*\\(steps\\)"):
        sets.labelled_steps(settings_of(TrainingSettings, name), 0)


def test_rows_of_another_kind_or_with_earlier_turns_are_no_steps(put):
    before = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hi."}]
    for row, said in ((TURN, "no list 'completions'"), (STEPS | {"history": before}, "history")):
        with pytest.raises(ValueError, match=f"row 1: .*{said}"):
            sets.labelled_steps(settings_of(TrainingSettings, put(jsonl(row))), 0)
    columns = {"completions": ["a"], "labels": "a tag"}
    assert len(sets.corpus(put(jsonl(TURN | columns)))) == 1, (
        "beside a reply they mean something else"
    )
