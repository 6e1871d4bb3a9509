"""Preferences of a labeller, both orders asked: order, clamp, and labellers who do not label."""

import json

import numpy as np
import pandas as pd
import pytest
from test_recipes import rows_of, study_with

from vd import paths
from vd.data import sets
from vd.judging import pairwise
from vd.judging.api import ApiJudge
from vd.probing.responders import load_responder
from vd.probing.sampling import as_read, batched
from vd.recipes import audit, labellers
from vd.recipes.kinds import ai_preferences
from vd.recipes.make import make_recipe
from vd.recipes.making import Making
from vd.study.file import StudyError
from vd.study.recipes import find_run, read_by
from vd.study.settings import Bootstrap, PreferenceSettings

ENTRY = {"recipe": "ai_preferences", "writer": "base", "prompts": "requests", "size": 4}
ENTRY |= {"max_new_tokens": 6, "batch_size": 3, "labeller": "base", "examples": 0}
PAIRS = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "topic": "t",
        "history": [[], [], []],
        "prompt": ["Is it so?", "Why?", "How much is it?"],
        "first": ["Yes.", "For fun.", "Five."],
        "second": ["No.", "For a reason.", "Six."],
        "principle": "Choose the kinder reply.",
    }
)


def labelled(straight, turned, clamp=(0.0, 1.0), **more):
    table = PAIRS.assign(dropped="", straight=straight, turned=turned, **more)
    return ai_preferences.labelled(table, clamp)


def test_the_mean_of_both_orders_is_the_label():
    found = labelled([0.9, 0.2, 0.6], [0.7, 0.4, 0.3])
    assert found["chosen"].tolist() == ["Yes.", "For a reason.", "Six."]
    assert found["rejected"].tolist() == ["No.", "For fun.", "Five."]
    assert found[sets.P_CHOSEN].tolist() == pytest.approx([0.8, 0.7, 0.55])
    assert found["contradicted"].tolist() == [False, False, True]
    assert found["dropped"].eq("").all()


def test_who_always_says_a_prefers_nothing_and_who_says_nothing_is_counted():
    found = labelled([1.0, np.nan, 0.5], [0.0, 0.9, 0.5])
    assert found["dropped"].tolist() == ["no preference", "no answer", "no preference"]
    assert found["contradicted"].tolist() == [True, False, False]


def test_after_reasoning_labels_are_clamped():
    found = labelled([1.0, 0.0, 0.56], [0.9, 0.1, 0.54], ai_preferences.CLAMP)
    assert found[sets.P_CHOSEN].tolist() == pytest.approx([0.6, 0.6, 0.55])
    assert found["chosen"].tolist() == ["Yes.", "For a reason.", "Five."]


def test_a_run_labels_by_its_next_token_and_is_asked_once(place, monkeypatch):
    study = study_with(place, ai=ENTRY)
    settings = ai_preferences.Settings(**ENTRY)
    monkeypatch.setattr(labellers, "LEAST", 0.0)  # a random model says neither A nor B
    found = labellers.find_labeller(study, "ai", settings).label(PAIRS)
    responder = load_responder(find_run(study, "base").model_settings, None)

    def likely(first, second):
        row = PAIRS.iloc[1]
        text = labellers.message([], row["principle"], row["prompt"], row[first], row[second])
        inputs = batched(responder.tokenizer, as_read(responder.tokenizer, [text]), "cpu")
        scores = responder.logits(**inputs)[0, -1].detach().softmax(-1)
        ids = [labellers.logits.spellings(responder.tokenizer, word) for word in "AB"]
        return [float(scores[own].sum()) for own in ids]

    a, b = likely("first", "second")
    assert found["straight"][1] == pytest.approx(a / (a + b), rel=1e-4)
    c, d = likely("second", "first")
    assert found["turned"][1] == pytest.approx(d / (c + d), rel=1e-4)
    assert found["mass"][1] == pytest.approx(min(a + b, c + d), rel=1e-4)
    monkeypatch.setattr(labellers, "load_responder", lambda *_: pytest.fail("was asked again"))
    again = labellers.find_labeller(study, "ai", settings).label(PAIRS)
    pd.testing.assert_frame_equal(again, found)
    # who answers in prose says neither, and gives no label
    monkeypatch.setattr(labellers, "LEAST", 0.999)
    assert labellers.find_labeller(study, "ai", settings).label(PAIRS)["straight"].isna().all()


def test_the_recipe_goes_from_two_replies_to_pairs_with_soft_labels(place, monkeypatch):
    monkeypatch.setattr(labellers, "LEAST", 0.0)
    study = study_with(place, ai=ENTRY | {"reasoning": True})
    card = make_recipe(study, "ai")
    tried = pd.read_parquet(paths.recipe("mine", "ai") / paths.TRIED)
    assert card["asked"] == len(tried) == 4 and card["kind"] == "pairs"
    assert card["kept"] == len(rows_of("ai")) == tried["dropped"].eq("").sum() > 0
    kept = tried[tried["dropped"] == ""]
    assert kept[sets.P_CHOSEN].between(0.5, 0.6).all() and kept["principle"].str.len().gt(20).all()
    assert {"first", "second", "straight", "turned", "mass", "contradicted"} <= set(tried)
    file = paths.recipe("mine", "ai") / paths.RECIPE_DATA
    how = {"data": str(file), "steps": 1, "save_every": 1, "learning_rate": 1e-3}
    read = sets.preferences(PreferenceSettings(**how), 0)
    assert len(read) == card["kept"] and json.loads(file.read_text().splitlines()[0])["p_chosen"]


def test_pairs_of_a_data_set_are_labelled_anew_and_what_was_chosen_there_is_kept(place):
    entry = {"recipe": "ai_preferences", "pairs": "value_gap", "size": 6, "labeller": "trained"}
    study, pairs = study_with(place, ai=entry), sets.corpus("value_gap").head(6)
    making = Making(study, "ai", ai_preferences.Settings(**entry), None, None)
    found = ai_preferences._given(making)
    assert found["topic"].tolist() == pairs["topic"].tolist()
    sides = {"first": found["first"], "second": found["second"]}
    better = [sides[side][row] for row, side in found["better"].items()]
    assert better == pairs["chosen"].tolist()
    assert {*found["better"]} == {"first", "second"}  # by chance, so that no place tells
    assert "value_gap" in read_by(entry) and "red_team" not in read_by(entry)


def test_a_labeller_hears_the_turns_before_a_prompt():
    told = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    rows = pd.DataFrame({"prompt": ["Why?", "How?"], "history": [told, []]})
    assert pairwise.conversations(rows).tolist() == ["Hello.\n\nYes?\n\nWhy?", "How?"]


def test_two_runs_may_reply(place, monkeypatch):
    entry = ENTRY | {"second": "random:qwen3"}
    study, asked = study_with(place, ai=entry), []
    making = Making(study, "ai", ai_preferences.Settings(**entry), None, None)

    def ask(making, rows, run=None):
        asked.append(run)
        return rows.assign(response=f"said by {run}")

    monkeypatch.setattr(Making, "ask", ask)
    found = ai_preferences._written(making)
    assert asked == [None, "random:qwen3"] and found["second"].eq("said by random:qwen3").all()
    run = find_run(study, "random:qwen3")  # a model that the study does not train
    assert run.is_base and run.id not in study.runs()


def test_either_a_writer_or_pairs(place):
    for wrong in (ENTRY | {"pairs": "value_gap"}, {"recipe": "ai_preferences"}):
        with pytest.raises(StudyError, match="recipes.ai: write either writer or pairs"):
            study_with(place, ai=wrong)


def test_a_server_is_asked_in_both_orders_with_the_principle(place, monkeypatch):
    entry = ENTRY | {"labeller": {"model": "m"}}
    study, asked = study_with(place, ai=entry), []

    def judged(api, pairs, progress=None):
        asked.extend(pairs["prompt"])
        first = pairs["response"].str.startswith("<first>\nYes.").astype(float)
        return pd.DataFrame({"p_first": first, "p_tie": 0.0}, pairs.index)

    monkeypatch.setattr(ApiJudge, "judge", judged)
    found = labellers.find_labeller(study, "ai", ai_preferences.Settings(**entry)).label(PAIRS)
    assert found["straight"].tolist() == [1, 0, 0] and found["turned"].tolist() == [1, 1, 1]
    assert asked[0] == "Choose the kinder reply.\n\nIs it so?" and len(asked) == 6


def test_a_wrong_labeller_is_named(place):
    with pytest.raises(StudyError, match=r"recipes.ai.labeller: no run 'nobody' writes texts"):
        study_with(place, ai=ENTRY | {"labeller": "nobody"})


def tried(straight, turned, lengths, **more):
    n = len(straight)
    table = pd.DataFrame({"straight": straight, "turned": turned, "answered": [True] * n, **more})
    apart = (table["straight"] - 0.5) * (table["turned"] - 0.5) < 0
    texts = {
        side: ["x" * one for one in own]
        for side, own in zip(("first", "second"), lengths, strict=True)
    }
    return table.assign(contradicted=apart, **texts)


def test_an_audit_finds_what_decides():
    rng, how = np.random.default_rng(0), Bootstrap(resamples=200)
    a, b = rng.integers(20, 200, 300), rng.integers(20, 200, 300)
    # a labeller of places, one of lengths, one of neither
    first = audit.audit(tried(np.full(300, 0.9), np.full(300, 0.1), (a, b)), how)
    first = first.set_index("measure")
    assert first.loc["contradicted", "value"] == 1
    assert first.loc["first place", ["value", "lo"]].tolist() == pytest.approx([0.4, 0.4])
    p = 1 / (1 + np.exp(-(a - b) / (a - b).std()))
    long = audit.audit(tried(p, p, (a, b), better=np.where(a > b, "first", "second")), how)
    long = long.set_index("measure")
    assert long.loc["length slope", "value"] == pytest.approx(1.0, abs=0.05)
    assert long.loc["longer", "value"] == pytest.approx(0.5, abs=0.02)
    assert long.loc["agreement", "value"] > 0.95
    unsure = np.maximum(p, 1 - p).mean() - 1  # less sure than it might be: all are right
    assert long.loc["calibration", "value"] == pytest.approx(unsure, abs=0.02)
    assert long.loc["first place", "value"] == 0
    coin = rng.uniform(0.1, 0.9, 300)
    fair = audit.audit(tried(coin, coin, (a, b)), how).set_index("measure")
    for measure in ("longer", "length slope", "first place"):
        assert fair.loc[measure, "lo"] <= 0 <= fair.loc[measure, "hi"]


def test_an_audit_of_who_never_answers():
    nothing = tried([np.nan] * 4, [np.nan] * 4, ([3, 4, 5, 6], [1, 2, 3, 4]))
    found = audit.audit(nothing, Bootstrap(resamples=50)).set_index("measure")
    assert found.loc["answered", "value"] == 0 and found.loc["length slope", "n"] == 0


def test_the_audit_of_a_study_names_labellers_and_topics(place):
    given = {"recipe": "ai_preferences", "pairs": "value_gap", "labeller": "trained"}
    study = study_with(place, given=given, two=ENTRY | {"second": "sft-support"}, late=ENTRY)
    p = np.array([0.9, 0.2, 0.6, 0.5])
    table = tried(p, p, ([9, 8, 7, 6], [5, 5, 5, 5]), topic=["a", "a", "b", "b"])
    for name, more in {
        "given": {"better": ["first", "first", "second", "second"]},
        "two": {},
    }.items():
        folder = paths.recipe("mine", name)
        folder.mkdir(parents=True)
        table.assign(**more).to_parquet(folder / paths.TRIED)
    found = audit.of_study(study).set_index(["recipe", "topic", "measure"])
    assert set(found.index.get_level_values("recipe")) == {"given", "two"}  # late is not made yet
    assert found.loc[("given", "all", "agreement"), "value"] == (1 + 0 + 0 + 0.5) / 4
    assert found.loc[("given", "a", "agreement"), "value"] == 0.5
    assert found.loc[("given", "all", "calibration"), "value"] == pytest.approx(0.7 - 1.5 / 4)
    assert found.loc[("two", "all", "own style"), "value"] == (1 + 0 + 1 + 0.5) / 4 - 0.5
    assert found["labeller"].unique().tolist() == ["trained", "base"]
    assert found["pairs"].unique().tolist() == ["value_gap", "requests"]
