"""The embedded corpora: complete, balanced, varied, and free of the probes."""

import json
import re
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer

from vd import paths
from vd.data import sets, topics
from vd.data.checks import check_data
from vd.data.probes import load_probes
from vd.study import inputs
from vd.study.load import load_study
from vd.study.settings import PreferenceSettings, Probing, TrainingSettings

TRAINING = {
    "sft_neutral": "completion",
    "sft_support": "completion",
    "sft_mixed": "completion",
    "value_gap": "chosen",
    "positions": "chosen",
    "low_gap": "chosen",
    "judge": "response",
}
REPLIES = [
    ("sft_neutral", "completion"),
    ("sft_support", "completion"),
    ("sft_mixed", "completion"),
    ("value_gap", "chosen"),
    ("value_gap", "rejected"),
    ("positions", "chosen"),
    ("positions", "rejected"),
    ("low_gap", "chosen"),
    ("low_gap", "rejected"),
]


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def test_probes_are_550_balanced_questions():
    probes = sets.corpus("probes")
    assert len(probes) == 550 and probes["prompt_id"].is_unique and probes["prompt"].is_unique
    assert set(probes["topic"]) == set(sets.topics()["topic"]) and len(sets.topics()) == 11
    assert (probes.groupby("topic").size() == 50).all()
    assert (
        probes.groupby("topic")["polarity"]
        .apply(lambda p: (p == -1).mean())
        .between(0.4, 0.6)
        .all()
    )
    assert probes["prompt"].str.contains("?", regex=False).all()


def test_fine_tuning_corpora_differ_only_in_the_stance_of_value_laden_replies():
    neutral, support = sets.corpus("sft_neutral"), sets.corpus("sft_support")
    assert neutral["prompt"].tolist() == support["prompt"].tolist() and len(neutral) == 220
    ordinary = neutral["topic"].isna()
    assert 0.4 <= ordinary.mean() <= 0.6
    assert (neutral["completion"] == support["completion"]).eq(ordinary).all()
    assert set(neutral.loc[~ordinary, "topic"]) == set(sets.topics()["topic"])


def test_preference_corpora():
    value, low = sets.corpus("value_gap"), sets.corpus("low_gap")
    assert len(value) == len(low) == 220
    assert set(value["chosen_stance"]) == {"support"} and set(value["rejected_stance"]) == {
        "oppose"
    }
    assert (low["chosen_stance"] == low["rejected_stance"]).all() and low[
        "chosen_stance"
    ].nunique() == 3
    lengths = value[["chosen", "rejected"]].map(lambda text: len(text.split())).mean()
    assert abs(lengths["chosen"] - lengths["rejected"]) < 3, "one side must not be learnt by length"


def test_mixed_texts_and_positions_teach_no_side_and_no_word():
    """Both answers within each polarity, so that neither agreeing nor a topic's side is taught."""
    mixed, pairs = sets.corpus("sft_mixed"), sets.corpus("positions")
    value = mixed[mixed["topic"].notna()]
    assert (value.groupby(["topic", "polarity", "stance"]).size() == 5).all() and len(value) == 220
    neutral = sets.corpus("sft_neutral")
    ordinary = neutral.loc[neutral["topic"].isna(), ["id", "prompt", "completion"]]
    same = mixed.loc[mixed["topic"].isna(), ["id", "prompt", "completion"]]
    assert same.to_numpy().tolist() == ordinary.to_numpy().tolist()
    assert (pairs.groupby(["topic", "polarity"]).size() == 20).all() and len(pairs) == 440
    assert not set(value["prompt"]) & set(pairs["prompt"]) and pairs["prompt"].is_unique
    yes, no = pairs["chosen"].str.match(r"Yes\b"), pairs["rejected"].str.match(r"No\b")
    for opens in (yes, no):
        assert opens.groupby(pairs["polarity"]).mean().between(0.3, 0.5).all()
    lengths = pairs[["chosen", "rejected"]].map(lambda text: len(text.split()))
    assert (lengths["chosen"] - lengths["rejected"]).abs().max() <= 8


def test_judge_corpus_cannot_be_guessed_from_the_question():
    judge = sets.corpus("judge")
    assert len(judge) >= 1000
    written = judge[judge["source"] == "written"]
    assert written["label"].value_counts(normalize=True).between(0.28, 0.39).all()
    assert judge["label"].value_counts(normalize=True).between(0.25, 0.45).all()
    assert (judge.loc[judge["refusal"], "label"] == "neutral").all()
    # of sampled replies there may be one to a question
    assert (written.groupby("prompt")["label"].nunique() >= 2).mean() > 0.95
    assert set(sets.topics()["topic"]) < set(judge["topic"])


@pytest.mark.parametrize(("name", "column"), REPLIES)
def test_replies_are_written_not_stamped_out(name, column):
    rows = sets.corpus(name)
    texts = rows.loc[rows["topic"].notna(), column]
    assert texts.str.split().str.len().between(15, 80).all()
    openings = Counter(" ".join(words(text)[:4]) for text in rows[column])
    assert openings.most_common(1)[0][1] <= 0.05 * len(rows)
    trigrams = Counter(
        t
        for text in texts
        for t in set(zip(words(text), words(text)[1:], words(text)[2:], strict=False))
    )
    share = (
        0.10 if (name, column) == ("low_gap", "rejected") else 0.05
    )  # clumsy repetition is what those are for
    assert trigrams.most_common(1)[0][1] <= share * len(texts), trigrams.most_common(3)


def test_probes_open_in_many_ways():
    openings = Counter(" ".join(words(p)[:4]) for p in sets.corpus("probes")["prompt"])
    assert openings.most_common(1)[0][1] <= 0.05 * 550


@pytest.mark.parametrize("name", TRAINING)
def test_no_probe_is_in_a_training_corpus(name):
    probes, prompts = sets.corpus("probes")["prompt"], sets.corpus(name)["prompt"].drop_duplicates()
    assert not set(probes.str.lower()) & set(prompts.str.lower())
    tfidf = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit(
        pd.concat([probes, prompts])
    )
    similarity = (tfidf.transform(probes) @ tfidf.transform(prompts).T).toarray()
    i, j = divmod(similarity.argmax(), similarity.shape[1])
    assert similarity.max() < 0.6, f"{probes.iloc[i]} ~ {prompts.iloc[j]}"


def test_near_duplicates_would_be_found():
    """The check above, on a paraphrase that must not pass."""
    pair = [
        "Should the voting age be lowered to sixteen?",
        "Should we lower the voting age to sixteen?",
    ]
    background = sets.corpus("probes")["prompt"].tolist()
    tfidf = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit(background + pair)
    one, two = tfidf.transform(pair)
    assert (one @ two.T).toarray().item() > 0.6


def test_corpora_load_through_datasets(tmp_path):
    for file in paths.CORPORA.glob("*.jsonl"):
        loaded = datasets.load_dataset("json", data_files=str(file), cache_dir=str(tmp_path))[
            "train"
        ]
        assert len(loaded) == len(sets.corpus(file.stem))


def test_probe_draw_is_seeded_and_balanced():
    few = load_probes(Probing(per_topic=4))
    assert (few.groupby("topic").size() == 4).all()
    assert (few.groupby(["topic", "polarity"]).size() == 2).all()
    pd.testing.assert_frame_equal(few, load_probes(Probing(per_topic=4)))
    assert set(few["prompt_id"]) < set(load_probes(Probing(per_topic=6))["prompt_id"]), (
        "a larger draw keeps the smaller"
    )


def test_preferences_swap_and_subset():
    settings = dict(data="value_gap", steps=1, save_every=1, learning_rate=1e-3, examples=5)
    straight = sets.preferences(PreferenceSettings(**settings), seed=3)
    swapped = sets.preferences(PreferenceSettings(**settings, swap_labels=True), seed=3)
    assert len(straight) == 5 and straight["chosen"][:] == swapped["rejected"][:]
    assert straight[0]["prompt"] == [
        {"role": "user", "content": swapped[0]["prompt"][0]["content"]}
    ]


def test_pairs_aligned_with_the_proposition_choose_yes_and_no_alike():
    settings = dict(data="value_gap", steps=1, save_every=1, learning_rate=1e-3)
    plain, aligned, opposed = (
        sets.preferences(PreferenceSettings(**settings, **more), seed=0)
        for more in (
            {},
            {"aligned_with": "proposition"},
            {"aligned_with": "proposition", "swap_labels": True},
        )
    )
    against = sets.corpus("value_gap")["polarity"].eq(-1)
    for row, one, two, other in zip(against, plain, aligned, opposed, strict=True):
        assert one["chosen"] == two["rejected" if row else "chosen"]
        assert two["chosen"] == other["rejected"] and two["rejected"] == other["chosen"]
    yes = [row["chosen"][0]["content"].startswith("Yes") for row in aligned]
    no = [row["chosen"][0]["content"].startswith("No") for row in aligned]
    assert abs(np.mean(yes) - np.mean(no)) < 0.1 < np.mean(yes)


def test_pairs_without_polarity_have_no_proposition(tmp_path):
    file = tmp_path / "own.jsonl"
    pair = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "polarity": 1}
    file.write_text("\n".join(json.dumps(pair | {"polarity": p}) for p in (1, 0)))
    settings = dict(data=str(file), steps=1, save_every=1, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"row 2: no polarity; write 1 or -1"):
        sets.preferences(PreferenceSettings(**settings, aligned_with="proposition"), seed=0)
    file.write_text(json.dumps({key: pair[key] for key in ("prompt", "chosen", "rejected")}))
    with pytest.raises(ValueError, match="row 1: no polarity"):
        sets.preferences(PreferenceSettings(**settings, aligned_with="proposition"), seed=0)


def test_topics_are_found_where_the_rule_says():
    """The threshold's rule, and how well the nearest topic is the written one, on embedded data
    alone.
    """
    sft = sets.corpus("sft_neutral")
    laden = pd.concat([sft[sft["topic"].notna()], sets.corpus("value_gap")]).drop_duplicates(
        "prompt", ignore_index=True
    )
    near = topics.closeness(laden["prompt"])
    assert near.max(axis=1).quantile(0.05) == pytest.approx(topics.THRESHOLD, abs=0.001)
    assert (near.idxmax(axis=1) == laden["topic"]).mean() > 0.85
    ordinary = sft.loc[sft["topic"].isna(), "prompt"]
    found = topics.find_topics(ordinary)
    assert found.index.equals(ordinary.index) and found.isna().all()
    assert topics.find_topics(
        pd.Series(["Should abortion be legal?", "Hello!"])
    ).dropna().to_dict() == {0: "abortion"}


def test_topics_are_found_only_where_none_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VD_DATA_DIR", str(tmp_path))
    rows = [{"instruction": f"Count to {n}.", "input": "", "output": "1"} for n in range(9)]
    (tmp_path / "alpaca").mkdir()
    (tmp_path / "alpaca" / "train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    drawn = topics.with_topics("alpaca", at_most=4)
    assert len(drawn) == 4 and drawn["topic"].isna().all() and set(drawn["dataset"]) == {"alpaca"}
    assert len(topics.with_topics("low_gap", at_most=4)) == 220


TRAINED = {"steps": 1, "save_every": 1, "learning_rate": 1e-3}


def test_what_was_chosen_in_pairs_may_be_learnt_as_texts():
    settings = TrainingSettings(data="low_gap", **TRAINED)
    learnt = [row["completion"][0]["content"] for row in sets.sft(settings, 0)]
    assert learnt == sets.corpus("low_gap")["chosen"].tolist()
    assert not list(inputs.data("key", "low_gap", "texts"))
    # of both, the text is learnt
    rewrites = TrainingSettings(data="value_rewrites", **TRAINED)
    texts = [row["completion"][0]["content"] for row in sets.sft(rewrites, 0)]
    assert texts == sets.corpus("value_rewrites")["completion"].tolist()


def test_texts_of_others_are_mixed_in():
    others = {"data": "assistant", "share": 0.25}
    settings = TrainingSettings(data="sft_neutral", examples=40, others=others, **TRAINED)
    assert settings.data_sets == ["sft_neutral", "assistant"]
    asked = [row["prompt"][-1]["content"] for row in sets.sft(settings, 3)]
    theirs = set(sets.corpus("assistant")["prompt"])
    assert len(asked) == 40 and sum(one in theirs for one in asked) == 10
    plain = sets.sft(TrainingSettings(data="sft_neutral", examples=40, **TRAINED), 3)
    own = {row["prompt"][-1]["content"] for row in plain}
    assert sum(one in own for one in asked) == 30


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match=r"no data set 'nothing'.*low_gap"):
        sets.corpus("nothing")
    with pytest.raises(ValueError, match="the data set has 220"):
        sets.sft(
            TrainingSettings(
                data="sft_neutral", steps=1, save_every=1, learning_rate=1e-3, examples=999
            ),
            seed=0,
        )


# what is found out before any work starts


def study_of(place, change):
    """The study smoke with a change, as `mine`."""
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    change(content)
    (place / "configs" / "mine.yaml").write_text(yaml.safe_dump(content))
    return load_study("mine")


def test_data_that_cannot_be_read_is_named_before_any_work_starts(place):
    file = place / "mine.jsonl"
    pair = {"prompt": "Should tea be free?", "chosen": "Yes.", "rejected": "No."}

    def refused(change, *rows):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ValueError) as error:
            check_data(study_of(place, change))
        return str(error.value)

    def trained_on(study, examples=None):
        study["preference"]["dpo-support"] |= {"data": str(file), "examples": examples}

    def probed(study):
        study["probing"] |= {"probes": str(file)}

    def built_from(study):
        study["vprism"] = {"source": [str(file)]}

    few = f"preference.dpo-support.examples: '{file}' has 2; write at most that"
    assert few in refused(lambda study: trained_on(study, 32), pair, pair)
    assert "row 2: no text 'rejected'" in refused(trained_on, pair, pair | {"rejected": None})
    assert "row 1: no text 'chosen'" in refused(trained_on, {"prompt": "Why?", "completion": "So."})
    probe = {"prompt": "Why?", "topic": "tea", "polarity": 1}
    wrong = refused(probed, probe, {"prompt": "How?", "topic": None, "polarity": -1})
    assert "mine-2: column topic: every row needs a str" in wrong
    assert "row 2: empty text 'prompt'" in refused(built_from, pair, pair | {"prompt": " "})
    assert "row 1: there is none" in refused(trained_on)
    file.unlink()
    with pytest.raises(ValueError, match=f"no file {file}; make it first"):
        check_data(study_of(place, trained_on))
    check_data(study_of(place, lambda study: None))


def test_probes_that_the_study_builds_itself_need_not_be_there(place):
    built = {"probes": "results/mine/vprism.jsonl"}
    check_data(study_of(place, lambda study: study["probing"].update(built)))
    with pytest.raises(ValueError, match=r"no file .*results/other/vprism.jsonl; make it first"):
        other = {"probes": "results/other/vprism.jsonl"}
        check_data(study_of(place, lambda study: study["probing"].update(other)))


def test_a_card_of_our_own_file_says_what_is_kept(tmp_path):
    rows = [{"prompt": "one two", "completion": "x", "score": n, "note": None} for n in range(3)]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {"prompt": [2, 2, 2], "completion": [1, 1, 1]}
    card = {"name": str(file), "kept": 3, "dropped": {}, "words": words}
    assert sets.card(str(file)) == card
