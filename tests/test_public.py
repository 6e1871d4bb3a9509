"""Public data sets: made rows and, where VD_DATA_DIR names a mirror, real ones.

What fails says how to mend it.
"""

import gzip
import json
import os
import re
import subprocess
from collections import Counter

import datasets
import pandas as pd
import pytest
from datasets.exceptions import DatasetNotFoundError

from vd import paths
from vd.data import reading, sets
from vd.store import formats
from vd.store.shown import excerpt
from vd.study.catalogue import EMBEDDED, PUBLIC
from vd.study.settings import PreferenceSettings, TrainingSettings

MIRROR = os.environ.get("VD_DATA_DIR")
on_real_rows = pytest.mark.skipif(
    not MIRROR, reason="VD_DATA_DIR names no mirror of public data sets"
)
ALPACA = [("Add.", "1, 2", "3"), ("Greet.", "", "Hello."), ("Say nothing.", "", "")]
ALPACA = [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in ALPACA]


def settings_of(kind, data, **more):
    return kind(data=data, steps=1, save_every=1, learning_rate=1e-3, **more)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty mirror folder."""
    monkeypatch.setenv("VD_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """A hub that serves rows, or raises an error, in place of `datasets.load_dataset`.

    Keeps what it was asked for.
    """
    asked = {}

    def serve(rows):
        monkeypatch.delenv("VD_DATA_DIR", raising=False)

        def load(place, **options):
            asked.update(options, place=place)
            if isinstance(rows, Exception):
                raise rows
            served = datasets.Dataset.from_list(rows)
            return served.to_iterable_dataset() if options.get("streaming") else served

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr(datasets, "load_dataset_builder", load)
        return asked

    return serve


def write(file, *rows):
    file.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def said(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def wildchat(number, **change):
    row = {"language": "English", "toxic": False, "model": "gpt-3.5-turbo-0301"}
    return row | {"conversation": said(f"Why {number}?", "So.", "And?", "No.")} | change


# converters


def test_a_file_is_read_as_the_embedded_set_it_copies():
    for name in (str(paths.CORPORA / "value_gap.jsonl"), "vd/corpora/value_gap.jsonl"):
        read = sets.preferences(settings_of(PreferenceSettings, name, examples=7), seed=1)
        assert (
            read[:]
            == sets.preferences(settings_of(PreferenceSettings, "value_gap", examples=7), seed=1)[:]
        )


def test_alpaca_input_follows_the_instruction(folder):
    write(folder / "alpaca" / "train.jsonl", *ALPACA)
    read = sets.sft(settings_of(TrainingSettings, "alpaca"), seed=0)
    assert read["prompt"][:] == [said("Add.\n\n1, 2"), said("Greet.")]
    assert read["completion"][1] == [{"role": "assistant", "content": "Hello."}]


def test_wildchat_keeps_first_turns_in_english_without_toxicity_by_gpt_35(folder):
    others = [
        wildchat(n, **c)
        for n, c in enumerate(({"language": "French"}, {"toxic": True}, {"model": "gpt-4-0314"}))
    ]
    write(
        folder / "wildchat" / "train.jsonl",
        *others,
        wildchat(4),
        wildchat(5, conversation=said("Why?")),
    )
    assert sets.corpus("wildchat").to_dict("records") == [
        {"id": "wildchat-4", "prompt": "Why 4?", "completion": "So."}
    ]
    assert sets.card("wildchat")["dropped"] == {
        "other language": 1,
        "toxic": 1,
        "other model": 1,
        "no reply": 1,
    }


def test_filters_are_parameters_of_a_study(folder):
    write(
        folder / "wildchat" / "train.jsonl",
        wildchat(1, language="French"),
        wildchat(2, toxic=True),
        wildchat(3),
    )
    prompts = {
        key: [
            row[0]["content"]
            for row in sets.sft(settings_of(TrainingSettings, "wildchat", filters=filters), 0)[
                "prompt"
            ]
        ]
        for key, filters in {"french": {"language": "French"}, "all": {"toxic": True}}.items()
    }
    assert prompts["french"] == ["Why 1?"] and sorted(prompts["all"]) == ["Why 2?", "Why 3?"]
    with pytest.raises(ValueError, match=r"filters: \['tongue'\] are not among .*language"):
        sets.corpus("wildchat", {"tongue": "French"})


def test_long_conversations_can_be_left_out(folder):
    pair = {"chosen": said("Why?", "Because it is so."), "rejected": said("Why?", "No.")}
    longer = pair | {"rejected": said("Why?", "No, " * 20)}
    write(folder / "ultrafeedback" / "train.jsonl", longer, pair)
    assert sets.corpus("ultrafeedback", {"max_words": 5})["id"].tolist() == ["ultrafeedback-2"]
    assert sets.card("ultrafeedback", {"max_words": 5})["dropped"] == {"more than 5 words": 1}


def test_ultrafeedback_prompt_is_what_both_sides_share(folder):
    pair = {"chosen": said("Why?", "Because."), "rejected": said("Why?", "No.")}
    scores = {"score_chosen": 8.0, "score_rejected": 7.5}
    empty, equal = (pair | {"rejected": said("Why?", reply)} for reply in (" ", "Because."))
    write(folder / "ultrafeedback" / "train.jsonl", *(row | scores for row in (pair, empty, equal)))
    read = sets.preferences(
        settings_of(PreferenceSettings, "ultrafeedback", swap_labels=True), seed=0
    )
    assert read[:] == {
        "prompt": [said("Why?")],
        "chosen": [said("", "No.")[1:]],
        "rejected": [said("", "Because.")[1:]],
    }
    with pytest.raises(
        ValueError, match=r"no row is left .*'scores too close': 3.*change the filters"
    ):
        sets.corpus("ultrafeedback", {"min_margin": 1.0})


@pytest.mark.parametrize(
    ("name", "part"), [("hh-rlhf", "harmless"), ("hh-rlhf-helpful", "helpful")]
)
def test_hh_rlhf_keeps_earlier_turns_as_messages(folder, name, part):
    start = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: How\n\nare you?\n\nAssistant:"
    pair = {"chosen": f"{start} Well.", "rejected": f"{start} Worse."}
    parted = {
        "chosen": f"{start} Well.",
        "rejected": f"{start} Well.\n\nHuman: Good.\n\nAssistant: Yes.",
    }
    unusable = [parted, pair | {"chosen": start}, {"chosen": "Hi.", "rejected": ""}]
    write(folder / "hh-rlhf" / f"{part}-base_test.jsonl.gz", pair, *unusable)
    read = sets.preferences(settings_of(PreferenceSettings, name), seed=0)
    assert len(read) == 1 and read[0]["prompt"] == said("Hi.", "Hello.", "How\n\nare you?")
    assert (
        read[0]["chosen"][0]["content"] == "Well." and read[0]["rejected"][0]["content"] == "Worse."
    )
    assert sets.corpus(name)["prompt"].tolist() == ["How\n\nare you?"]


def test_prism_reads_alike_from_the_hub_and_from_issuebench(folder, hub):
    (folder / "prism").mkdir()
    (folder / "prism" / "opening_prompts.csv").write_text(
        'id,user_prompt,n_duplicates\nprism-7,"Why, then?",1\n'
    )
    mirrored = sets.corpus("prism")
    rows = [("c7", "Why, then?", "values guided"), ("c8", "Hi", "unguided")]
    hub(
        [
            dict(zip(("conversation_id", "opening_prompt", "conversation_type"), row, strict=True))
            for row in rows
        ]
    )
    pd.testing.assert_frame_equal(sets.corpus("prism", {"types": ["values guided"]}), mirrored)


# rows that cannot be used

ADD = {"instruction": "Add.", "input": "1, 2", "output": "3"}
UNUSABLE = {  # data set: a good row, then bad ones with the reasons under which they are counted
    "alpaca": (
        ADD,
        (ADD | {"instruction": None}, "no text"),
        (ADD | {"instruction": " "}, "empty text"),
        (ADD | {"instruction": ["Add."]}, "not a text"),
        (ADD | {"input": 12}, "not a text"),
        (ADD | {"output": None}, "no text"),
        (ADD | {"output": float("nan")}, "no text"),
        (ADD | {"output": "\u200b\n"}, "empty text"),
        (ADD | {"output": 3}, "not a text"),
        (ADD | {"output": "half \ud83d"}, "undecodable text"),
        (ADD | {"output": "<nooutput>"}, "no output"),
        (ADD, "duplicate"),
        (None, "not an object"),
        (["Add."], "not an object"),
        ("Add.", "not an object"),
    ),
    "wildchat": (
        wildchat(1),
        (wildchat(2, conversation=[]), "no reply"),
        (wildchat(2, conversation=None), "no conversation"),
        (wildchat(2, conversation="Hi"), "no conversation"),
        (wildchat(2, conversation=[None, None]), "no conversation"),
        (wildchat(2, conversation=said("Hi", None)), "no text"),
        (wildchat(2, conversation=said("Hi", "")), "empty text"),
        (wildchat(2, conversation=said("Hi", {"text": "So."})), "not a text"),
        (wildchat(2, conversation=said("Hi", "So.")[::-1]), "turns do not alternate"),
        (wildchat(2, conversation=[{"content": "Hi"}] * 2), "turns do not alternate"),
        (wildchat(2, language=None), "other language"),
        (wildchat(2, model=None), "other model"),
        (wildchat(2, toxic=None), "unknown whether toxic"),
        (wildchat(1), "duplicate"),
    ),
    "ultrafeedback": (
        {"chosen": said("Why?", "So."), "rejected": said("Why?", "No.")},
        ({"chosen": said("Why?", None), "rejected": said("Why?", "No.")}, "no text"),
        ({"chosen": None, "rejected": said("Why?", "No.")}, "no conversation"),
        ({"chosen": [], "rejected": []}, "turns do not alternate"),
        ({"chosen": said("Why?"), "rejected": said("Why?")}, "turns do not alternate"),
        ({"chosen": said("A", "B"), "rejected": said("B", "C")}, "parts before the last reply"),
        ({"chosen": said("A?", "So."), "rejected": said("A?", " So.\n")}, "equal replies"),
    ),
    "hh-rlhf": (
        {side: f"\n\nHuman: Why?\n\nAssistant: {side}." for side in ("chosen", "rejected")},
        ({"chosen": None, "rejected": None}, "no text"),
        ({"chosen": 1, "rejected": 2}, "not a text"),
        ({"chosen": "Be brief.\n\nHuman: Why?", "rejected": "x"}, "text before the first turn"),
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_row_that_cannot_be_used_is_counted_and_the_good_ones_stay(folder, name):
    good, *bad = UNUSABLE[name]
    write(folder / PUBLIC[name].mirror[0], good, *(row for row, _ in bad))
    card = sets.card(name)
    assert card["kept"] == 1 and card["dropped"] == Counter(reason for _, reason in bad)
    assert sets.corpus(name)["id"].tolist() == [f"{name}-1"]


def test_a_set_of_parts_is_all_their_rows(folder):
    pair = {side: f"\n\nHuman: Why?\n\nAssistant: {side}." for side in ("chosen", "rejected")}
    write(folder / "hh-rlhf" / "harmless-base_test.jsonl.gz", pair)
    assert reading.mirrored("hh-rlhf-both") is None
    with pytest.raises(ValueError, match="helpful-base_train.jsonl.gz: no such file"):
        reading.check_source("hh-rlhf-both")
    write(folder / "hh-rlhf" / "helpful-base_test.jsonl.gz", pair, {"chosen": 1, "rejected": 2})
    assert reading.mirrored("hh-rlhf-both")
    assert sets.corpus("hh-rlhf-both")["id"].tolist() == ["hh-rlhf-1", "hh-rlhf-helpful-1"]
    assert sets.card("hh-rlhf-both")["dropped"] == {"not a text": 1}
    both = reading.fingerprint("hh-rlhf-both")
    assert "harmless-base_test" in both and "helpful-base_test" in both


def test_requests_of_others_say_whether_they_are_harmful(folder):
    for name in ("xstest", "jailbreakbench"):
        (folder / name).mkdir()
    file = folder / "xstest" / "prompts.csv"
    file.write_text("id,prompt,label\n1,How do I kill a lamp?,safe\n2,Who?,odd\n3,How?,unsafe\n")
    (folder / "jailbreakbench" / "behaviors.csv").write_text("Index,Goal\n0,Write a slur\n")
    found = sets.corpus("xstest").set_index("id")
    assert found["kind"].to_dict() == {"xstest-1": "benign", "xstest-3": "harmful"}
    assert sets.card("xstest")["dropped"] == {"other label": 1}
    (row,) = sets.corpus("jailbreakbench").to_dict("records")
    assert (row["prompt"], row["kind"]) == ("Write a slur", "harmful")


def test_a_turn_that_is_not_used_may_be_null(folder):
    file = folder / "wildchat" / "train.jsonl"
    write(file, wildchat(1, conversation=said("Hi", "Hello.", None, None)))
    assert sets.corpus("wildchat")["completion"].tolist() == ["Hello."]


NONE = ["", "  ", "<noinput>", "<no input>.", "'<noinput>'", "`<Noinput>`", "No input", "NOINPUT"]
NONE += ["No input.", "No input required.", "(no input provided)", "No additional input is needed."]
NONE += ["N/A", "n/a", "NA", "None", "none.", "null", "nan", "Not applicable", "[None]", None]


@pytest.mark.parametrize("none", NONE)
def test_all_ways_in_which_alpaca_says_no_input_are_none(folder, none):
    write(folder / "alpaca" / "train.jsonl", ADD | {"input": none})
    assert sets.corpus("alpaca")["prompt"].tolist() == ["Add."]


@pytest.mark.parametrize("some", ["None of them.", "no input devices", "Input: none", "0", "-"])
def test_an_input_that_only_looks_like_none_is_kept(folder, some):
    write(folder / "alpaca" / "train.jsonl", ADD | {"input": some})
    assert sets.corpus("alpaca")["prompt"].tolist() == [f"Add.\n\n{some}"]


def test_the_hub_is_trusted_no_more_than_a_mirror(hub):
    hub([ADD, ADD | {"output": None}, ADD | {"instruction": "Go."}, ADD | {"output": ""}, ADD])
    assert sets.corpus("alpaca")["prompt"].tolist() == ["Add.\n\n1, 2", "Go.\n\n1, 2"]
    assert sets.card("alpaca")["dropped"] == {"no text": 1, "empty text": 1, "duplicate": 1}


def test_a_hub_that_fails_on_the_way_is_one_clear_error(hub, monkeypatch):
    hub([wildchat(n) for n in range(3)])

    def fails(*args, **options):
        yield wildchat(1)
        raise ConnectionError("connection reset")

    stream = datasets.IterableDataset.from_generator(fails)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: stream)
    with pytest.raises(ConnectionError, match="'wildchat': connection reset; go online"):
        sets.corpus("wildchat", examples=3)


def test_every_public_row_has_a_name_of_its_own(folder):
    turns = [
        wildchat(n, conversation=[{"turn_identifier": key} | turn for turn in said(f"{n}?", "So.")])
        for n, key in enumerate([7, 7, None, "=cmd()", 3], start=1)
    ]
    write(folder / "wildchat" / "train.jsonl", *turns)
    ids = ["wildchat-7", "wildchat-2", "wildchat-3", "wildchat-=cmd()", "wildchat-5"]
    assert sets.corpus("wildchat")["id"].tolist() == ids
    (folder / "prism").mkdir()
    content = "id,user_prompt\n,Why?\n=1+1,What?\nprism-7,Who?\nprism-7,When?\n"
    (folder / "prism" / "opening_prompts.csv").write_text(content)
    assert sets.corpus("prism")["id"].tolist() == ["prism-1", "prism-2", "prism-7", "prism-4"]


def test_prism_survives_a_spreadsheet(folder):
    (folder / "prism").mkdir()
    file = folder / "prism" / "opening_prompts.csv"
    long = "word " * 28_000 + "end"
    lines = ["\ufeffid,user_prompt", "prism-7,Why then?", "prism-8", f"prism-9,{long}", "", ""]
    file.write_bytes("\r\n".join(lines).encode())
    assert sets.corpus("prism")[["id", "prompt"]].to_numpy().tolist() == [
        ["prism-7", "Why then?"],
        ["prism-9", long],
    ]
    assert sets.card("prism")["dropped"] == {"fewer fields than columns": 1}


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"max_words": "200"}, "max_words: '200'; write int above 0"),
        ({"max_words": 0}, "max_words: 0; write int above 0"),
        ({"max_words": True}, "max_words: True; write int"),
        ({"toxic": "no"}, "toxic: 'no'; write bool"),
        ({"language": True}, "language: True; write str"),
    ],
)
def test_a_filter_of_the_wrong_type_is_named(folder, filters, said):
    write(folder / "wildchat" / "train.jsonl", wildchat(1))
    with pytest.raises(ValueError, match=f"data set 'wildchat': filters: {said}"):
        sets.corpus("wildchat", filters)


def test_scores_that_are_none_are_counted(folder):
    pair = UNUSABLE["ultrafeedback"][0]
    scores = [(8.0, 6.0), (None, 6.0), (float("nan"), 6.0), ("8", "6")]
    rows = [pair | {"score_chosen": a, "score_rejected": b} for a, b in scores]
    write(folder / "ultrafeedback" / "train.jsonl", *rows)
    card = sets.card("ultrafeedback", {"min_margin": 1})
    assert card["kept"] == 1 and card["dropped"] == {"no scores": 2, "scores too close": 1}


@pytest.mark.parametrize("content", [b"\xff\xfe{", b'{"a": "Caf\xe9"}\n', b"\x1f\x8bcut", b""])
def test_a_mirror_file_that_cannot_be_read_is_named(folder, content):
    (folder / "alpaca").mkdir()
    file = folder / "alpaca" / "train.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file}: (row 1: (not UTF-8|a broken)|no row is left)"):
        sets.corpus("alpaca")


# the hub


@pytest.mark.parametrize("name", [name for name, entry in PUBLIC.items() if entry.hub])
def test_hub_and_mirror_are_read_by_the_same_code(name, hub, monkeypatch):
    """Rows of the mirror, served by a hub, become the same table.

    The hub is asked for the pinned revision.
    """
    if not reading.mirrored(name):
        pytest.skip(f"no mirror that holds {name}")
    mirrored, rows = sets.corpus(name), [row for _, row in formats.rows(reading.mirrored(name))]
    asked = hub(rows)
    pd.testing.assert_frame_equal(sets.corpus(name), mirrored)
    assert asked["place"] == PUBLIC[name].hub and re.fullmatch("[0-9a-f]{40}", asked["revision"])


def test_a_large_set_is_streamed_and_drawn_by_seed(hub):
    rows = [
        wildchat(n, conversation=[{"turn_identifier": n} | m for m in said(f"Why {n}?", "So.")])
        for n in range(40)
    ]
    asked = hub(rows)
    draw = [
        sets.sft(settings_of(TrainingSettings, "wildchat", examples=5), seed)["prompt"][:]
        for seed in (0, 0, 1)
    ]
    assert asked["streaming"] and draw[0] == draw[1] != draw[2] and len(draw[0]) == 5
    drawn = sets.corpus("wildchat", examples=5)
    assert all(row.id == f"wildchat-{row.prompt[4:-1]}" for row in drawn.itertuples()), (
        "ids hold in any order"
    )
    assert len(sets.corpus("wildchat")) == 40 and not asked["streaming"]


def test_a_stream_that_was_fetched_is_read_without_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    hub([wildchat(n) for n in range(40)])
    reading.keep("wildchat", {}, 5, 0)
    kept = reading.read_public("wildchat", {}, 5, 0)
    hub(ConnectionError("no network"))
    assert reading.read_public("wildchat", {}, 5, 0) == kept and len(kept[0]) == 5
    for other in (({}, 5, 1), ({}, 6, 0), ({"max_words": 50}, 5, 0)):
        with pytest.raises(ConnectionError, match="no network"):
            reading.read_public("wildchat", *other)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionError("no network"),
            r"'hh-rlhf': no network; go online, or put .*jsonl.gz.* VD_DATA_DIR",
        ),
        (
            DatasetNotFoundError("is a gated dataset"),
            r"accept its terms at https://huggingface.co/datasets/Anth.*log in",
        ),
        (
            DatasetNotFoundError("doesn't exist"),
            r"doesn't exist; look for it at https://huggingface.co/",
        ),
        (ValueError("Unknown split"), r"Unknown split; 'Anthropic/hh-rlhf' has changed"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_error(hub, error, said):
    hub(error)
    for ask in (sets.corpus, reading.check_source):
        with pytest.raises((ConnectionError, ValueError), match=said):
            ask("hh-rlhf")


def test_a_changed_schema_is_named(hub):
    hub([{"prompt": "Why?"}])
    with pytest.raises(
        ValueError, match=r"tatsu-lab/alpaca: row 1: no key 'output'.* at revision dce01c9b"
    ):
        sets.corpus("alpaca")


# the mirror


def test_a_missing_file_says_where_to_put_it(folder, monkeypatch):
    for ask in (sets.corpus, reading.check_source):
        with pytest.raises(
            ValueError, match=r"alpaca/train.jsonl: no such file.*unset VD_DATA_DIR"
        ):
            ask("alpaca")
    monkeypatch.delenv("VD_DATA_DIR")
    with pytest.raises(
        ValueError, match=r"VD_DATA_DIR/argkp/arguments_dev.csv: no such file.*not on the hub"
    ):
        sets.corpus("argkp")


def test_wrong_rows_are_named(folder):
    file = write(folder / "alpaca" / "train.jsonl", ALPACA[0], {"prompt": "Add."})
    with pytest.raises(ValueError, match=rf"{file}: row 2: no key 'output'"):
        sets.corpus("alpaca")
    write(file)
    with pytest.raises(ValueError, match=r"no row is left \(it is empty\)"):
        sets.corpus("alpaca")
    write(file, {"instruction": None, "input": "", "output": None})
    with pytest.raises(ValueError, match=rf"{file}: no row is left \({{'no text': 1}}\)"):
        sets.corpus("alpaca")
    file = folder / "mine.jsonl"
    with pytest.raises(ValueError, match=rf"no data set '{file}'.*make it first"):
        sets.corpus(str(file))
    write(file, {"prompt": "Why?", "chosen": "So."})
    with pytest.raises(ValueError, match=rf"{file}': row 1: no text 'rejected'"):
        sets.preferences(settings_of(PreferenceSettings, str(file)), seed=0)
    file.write_text('{"prompt": "Why?"}\n{"prompt":\n')
    with pytest.raises(ValueError, match=rf"{file}: row 2: not JSON"):
        sets.corpus(str(file))


def test_a_relative_mirror_is_meant_from_the_repository(monkeypatch):
    monkeypatch.setenv("VD_DATA_DIR", "../somewhere")
    assert reading.mirror() == paths.ROOT / "../somewhere"


def test_reading_from_elsewhere_is_another_data_set(folder, monkeypatch):
    file = write(folder / "alpaca" / "train.jsonl", *ALPACA)
    hashes = [reading.fingerprint("alpaca")]
    write(file, *ALPACA[:2])
    hashes.append(reading.fingerprint("alpaca"))
    monkeypatch.delenv("VD_DATA_DIR")
    hashes.append(reading.fingerprint("alpaca"))
    assert len(set(hashes)) == 3


# real rows

# one reply of UltraFeedback is a zero-width space; PERSPECTRUM holds 46 rows twice
KEPT = {"alpaca": 1013, "ultrafeedback": 993, "hh-rlhf": 2299, "hh-rlhf-helpful": 2333}
KEPT |= {"prism": 7393, "perspectrum": 9003, "argkp": 932}


@on_real_rows
@pytest.mark.parametrize("name", PUBLIC)
def test_real_rows_become_message_lists(name):
    if not reading.mirrored(name):
        pytest.skip(f"the mirror holds no {name}")
    card = sets.card(name)
    assert card["kept"] >= KEPT[name] and sum(card["dropped"].values()) < 0.02 * card["kept"]
    rows = sum(1 for _ in formats.rows(reading.mirrored(name)))
    assert card["kept"] + sum(card["dropped"].values()) == rows, "every row is kept or counted"
    assert all(low <= middle <= high for low, middle, high in card["words"].values())
    kind = PUBLIC[name].kind
    if kind not in ("texts", "pairs"):
        rows = sets.corpus(name)
        assert rows["prompt"].str.strip().ne("").all() and rows["id"].is_unique
        return
    sft = kind == "texts"
    settings = settings_of(TrainingSettings if sft else PreferenceSettings, name, examples=50)
    for row in (sets.sft if sft else sets.preferences)(settings, seed=0):
        assert [m["role"] for m in row["prompt"]] == ["user", "assistant"] * (
            len(row["prompt"]) // 2
        ) + ["user"]
        for side in ("completion",) if sft else ("chosen", "rejected"):
            assert [m["role"] for m in row[side]] == ["assistant"] and row[side][0][
                "content"
            ].strip()


def test_every_data_set_is_registered_with_a_licence():
    registry = sets.registry().set_index("name")
    assert set(EMBEDDED) == {file.stem for file in paths.CORPORA.glob("*.jsonl")}
    assert registry.index.is_unique and registry["licence"].str.len().gt(2).all()
    readme = (paths.NOTEBOOKS / "configs" / "README.md").read_text()
    assert all(f"`{name}`" in readme and registry["licence"][name] in readme for name in PUBLIC)


# texts of others


LONG, SHORT = 12, 8  # words: any run of 12 gives a text away, or a whole text of at least 8


def runs(text, length):
    """Hashes of all runs of that many words."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {hash(tuple(words[i : i + length])) for i in range(len(words) - length + 1)}


def marks(text):
    """What gives a text away: length and hashes."""
    length = min(len(re.findall(r"[a-z0-9']+", text.lower())), LONG)
    return (length, runs(text, length)) if length >= SHORT else (length, set())


def texts_of_mirror():
    """All texts of the mirror's data sets, with the name of the set."""
    for name in PUBLIC:
        if reading.mirrored(name):
            rows = sets.corpus(name)
            columns = [
                c for c in ("prompt", "completion", "chosen", "rejected", "response") if c in rows
            ]
            yield from (
                (name, text) for column in columns for text in rows[column].drop_duplicates()
            )


def tracked_texts():
    """Names and texts of all files in git, with the strings of tables and notebooks as they read."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout
    for file in map(paths.ROOT.joinpath, files.split()):
        if file.suffix == ".parquet":
            yield file.name, pd.read_parquet(file).select_dtypes(["object", "string"]).to_csv()
        elif file.suffix not in (".png", ".pdf"):
            yield (
                file.name,
                file.read_text(encoding="utf-8").replace("\\n", " ").replace('\\"', '"'),
            )


@on_real_rows
def test_no_text_of_others_is_tracked():
    given_away = {length: {} for length in range(SHORT, LONG + 1)}
    for name, text in texts_of_mirror():
        length, hashes = marks(text)
        given_away.setdefault(length, {}).update(dict.fromkeys(hashes, f"{name}: {text[:60]}"))
    found = {
        (file, known[mark])
        for file, text in tracked_texts()
        for length, known in given_away.items()
        if known
        for mark in runs(text, length) & known.keys()
    }
    assert not found


def test_a_copied_text_would_be_found():
    long = (
        "It is one of those rare sentences that nobody else would ever have written down like this."
    )
    for text in (long, "Why would anyone ever paint a lighthouse plum?"):
        length, hashes = marks(text)
        assert hashes & runs(f'{{"prompt": "{text}"}} and more {text}', length)


def test_excerpts_are_short():
    assert excerpt("short\n\ntext") == "short text"
    assert len(excerpt("word " * 100)) <= 60
