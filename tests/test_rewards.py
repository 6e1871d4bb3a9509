"""Rewards that are no reward model: by name, in GRPO, and what a rewriting is worth."""

import types

import numpy as np
import pandas as pd
import pytest
import yaml
from small import smoke_with

from vd import paths, plugins
from vd import values as space
from vd.data import sets
from vd.judging import pairwise
from vd.rewards import feedback, rewriting
from vd.store.files import read_json
from vd.study import rewards
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.study.types import Settings
from vd.training.train import train_run
from vd.values import NAMES
from vd.workflow import plan

SFT, RUN = "tiny-llama/sft-support/seed-0", "tiny-llama/sft-support/online/seed-0"
TINY = {"source": "random:bert", "epochs": 1}
SMALL = {"rewriting": {"detector": TINY, "judge": TINY | {"examples": 32}}}


def study_of(place, reward, method="grpo", **keys):
    content = smoke_with("online", method, **{"steps": 2, "save_every": 2, "batch_size": 8} | keys)
    run = content["preference"]["online"]
    run |= {"scorer": keys.get("scorer"), "reward": reward}
    if "lora" in keys:
        for entry in [*content["sft"].values(), *content["scorers"].values()]:
            entry |= {"lora": keys["lora"]} if entry.get("method") != "given" else {}
    (place / "configs" / "online.yaml").write_text(yaml.safe_dump(content))
    return load_study("online")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({}, "name one reward"),
        (
            {"rewritin": {}},
            "no reward 'rewritin'; write one of feedback, rewriting, or add vd/rewards/",
        ),
        ({"rewriting": {"values": 1.0}}, "rewriting.values: unknown key"),
        ({"rewriting": {"consistency": -1.0}}, "rewriting.consistency: Input should be greater"),
    ],
)
def test_a_wrong_reward_is_one_line(place, reward, said):
    with pytest.raises(StudyError) as error:
        study_of(place, reward)
    assert said in str(error.value) and "preference.online.reward" in str(error.value)


def test_a_run_has_a_scorer_or_a_reward(place):
    with pytest.raises(StudyError, match="write either scorer or reward"):
        study_of(place, SMALL, scorer="reward")


def test_grpo_learns_from_the_parts_of_a_reward(place, monkeypatch):
    monkeypatch.delenv("VD_DATA_DIR", raising=False)
    keys = {"data": "value_rewrites", "examples": 16, "max_length": 192}
    study = study_of(place, SMALL, **keys)
    for run in (SFT, RUN):
        train_run(study.run(run))
    metrics = pd.read_csv(paths.metrics("online", RUN))
    parts = metrics[[f"rewards/{name}/mean" for name in rewriting.PARTS]]
    assert parts.notna().all(axis=None)
    assert metrics["reward"].to_numpy() == pytest.approx(parts.sum(axis=1).to_numpy(), abs=1e-5)
    assert read_json(paths.record("online", RUN, "train"))["checkpoints"] == [0, 2]
    # what the reward reads and is made of belongs to what the run is made from
    made = plan.made_from(study)["02_preference", RUN]
    assert {"values", "entailment", "value_rewrites"} <= made.data.keys()
    assert "vd.rewards.rewriting.score" in made.code


def test_a_policy_finds_the_optimum_of_a_toy(place, monkeypatch):
    """The reward is the share of words with a letter; where all have it, it can be no more."""

    class Keys(Settings):
        pass

    def load(settings):
        def score(replies):
            said = replies["response"].str.split()
            return pd.DataFrame(
                {"t": said.map(lambda own: sum("t" in w for w in own) / max(len(own), 1))}
            )

        return score

    toy = types.SimpleNamespace(Settings=Keys, COLUMNS=(), PARTS=("t",), load=load)
    plain = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda r, n: toy if (r, n) == ("rewards", "toy") else plain(r, n)
    )
    monkeypatch.setattr(rewards, "settings_of", lambda reward: Keys())
    monkeypatch.setattr(rewards, "code_of", lambda settings: [])
    keys = {"steps": 40, "save_every": 40, "batch_size": 32, "generations": 8, "beta": 0.0}
    keys |= {"lora": None}  # adapters leave the scores of a random model nearly even
    study = study_of(
        place, {"toy": {}}, learning_rate=1e-2, warmup_steps=0, temperature=1.0, **keys
    )
    for run in (SFT, RUN):
        train_run(study.run(run))
    reward = pd.read_csv(paths.metrics("online", RUN))["reward"]
    assert reward.iloc[:3].mean() < 0.5 and reward.iloc[-3:].mean() > 0.9


class Detector:
    """Reads power as far as a text says 'rule', and nothing else."""

    def read(self, texts):
        found = np.zeros((len(texts), 10))
        found[:, NAMES.index("power")] = texts.str.contains("rule").to_numpy() * 0.5
        return found


class Judge:
    """Finds a text consistent that speaks of trains."""

    def score(self, originals, rewrites):
        return pd.DataFrame({"consistency": rewrites.str.contains("train").astype(float)})


def test_what_a_rewriting_is_worth():
    original = "Go by train, since it is quick and you can read on the way."
    texts = {
        "right": "Go by train and rule the road, since it is quick; read on the way.",
        "copy": original,
        "off topic": "Kings rule their lands with an iron hand, as you may have read.",
        "broken": "train train train train train train train train train train train train train",
        "empty": "",
        "long": "Go by train and rule, " + " ".join(f"word{i}" for i in range(40)),
    }
    shift = dict.fromkeys(NAMES, 0.0) | {"power": 0.5}
    replies = pd.DataFrame({"response": texts.values(), "original": original, **shift})
    settings = rewriting.Settings()
    found = rewriting.score(settings, Detector(), Judge(), replies)
    found.index = texts
    assert list(found) == list(rewriting.PARTS)
    assert found.loc["right"].tolist() == [1, 1, 0, 0, 0]
    assert found.loc["copy"].tolist() == [0, 1, -0.5, 0, 0], "copying fails on value"
    assert found.loc["off topic", "consistency"] == 0 and found.loc["off topic", "value"] == 1
    assert found.loc["broken", "broken"] == -1 and found.loc["empty", "broken"] == -1
    ratio = len(texts["long"].split()) / len(original.split())
    assert found.loc["long", "length"] == pytest.approx(-0.5 * np.log(ratio / 2))
    total = found.sum(axis=1)
    assert total.idxmax() == "right"
    plain = replies.assign(power=0.0)  # nothing asked: a copy is what is wanted
    kept = rewriting.score(settings, Detector(), Judge(), plain)
    assert kept["copying"].eq(0).all()
    near = rewriting.score(settings.model_copy(update={"form": "l2"}), Detector(), Judge(), replies)
    assert near["value"].tolist()[:2] == [0, -0.5]


class Ranks:
    """Prefers the longer reply."""

    def prefers(self, pairs):
        return (pairs["first"].str.len() > pairs["second"].str.len()).astype(float)


def test_a_labellers_verdict_against_the_reply_in_the_data(monkeypatch):
    asked = []
    monkeypatch.setattr(pairwise, "load", lambda settings, study: asked.append(settings) or Ranks())
    rows = {"prompt": "Why?", "chosen": "Because it is late.", "rejected": "No."}
    replies = pd.DataFrame([rows | {"response": "It rains."}, rows | {"response": "So"}])
    assert feedback.load(feedback.Settings())(replies)["better"].tolist() == [1, -1]
    assert (
        feedback.load(feedback.Settings(against="chosen"))(replies)["better"].tolist() == [-1] * 2
    )
    # the scorer that labels, so that another half of the pairs is left to judge with
    assert asked[0].half == "first"


def test_a_policy_learns_from_a_labellers_verdicts(place, monkeypatch):
    monkeypatch.delenv("VD_DATA_DIR", raising=False)
    labeller = TINY | {"half": "first", "examples": 32}
    study = study_of(place, {"feedback": {"labeller": labeller}}, method="rloo")
    for run in (SFT, RUN):
        train_run(study.run(run))
    assert pd.read_csv(paths.metrics("online", RUN))["rewards/better/mean"].between(-1, 1).all()
    assert "assistant_judge" in plan.made_from(study)["02_preference", RUN].data


def test_halves_of_the_pairs_that_judges_learn_from_share_no_prompt():
    parts = [
        pairwise._learnt(pairwise.PairwiseSettings(half=half, seed=seed), "assistant_judge")
        for half, seed in (("first", 0), ("second", 7))
    ]
    assert not set(parts[0]["prompt"]) & set(parts[1]["prompt"])
    assert sum(map(len, parts)) == len(sets.corpus("assistant_judge"))
    assert abs(len(parts[0]) - len(parts[1])) <= 2


def test_the_corpus_of_rewritings():
    rows = pd.concat([sets.corpus(n) for n in ("value_rewrites", "value_rewrites_held_out")])
    shifts = rows[list(NAMES)].to_numpy(float)
    assert len(rows) == 320 and rows["id"].is_unique and rows["prompt"].is_unique
    told = [space.message(*both) for both in zip(rows["original"], shifts, strict=True)]
    assert told == rows["prompt"].tolist() and (rows["completion"] == rows["chosen"]).all()
    asked = (shifts != 0).any(axis=1)
    assert (rows["rejected"] == rows["original"])[asked].all() and 20 <= (~asked).sum() <= 24
    assert (shifts > 0).sum(axis=0).min() >= 20 and (shifts < 0).sum(axis=0).min() >= 15
    learnt, held_out = (
        set(sets.corpus(n)["original"]) for n in ("value_rewrites", "value_rewrites_held_out")
    )
    assert not learnt & held_out


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        ({}, "the same values"),
        ({"power": 0.2}, "the same values"),
        ({"power": 0.5, "tradition": -1.0}, "more power, much less tradition"),
        ({"self_direction": 0.75}, "much more self-direction"),
    ],
)
def test_a_shift_in_words(shift, said):
    point = np.array([shift.get(name, 0.0) for name in NAMES])
    assert space.in_words(point) == said
    assert said in space.message("Go by train.", point)
