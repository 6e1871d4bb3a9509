"""The judge: what it returns, what it never mixes up, and that it is really trained."""

import numpy as np
import pandas as pd
import pytest

from vd import paths
from vd.data import sets
from vd.finite import NotFiniteError
from vd.judging import agreement, offline, trust
from vd.models import locate
from vd.study.settings import JudgeSettings

TINY = JudgeSettings(source="random:bert", epochs=1, learning_rate=1e-3, examples=64)


@pytest.fixture(scope="module")
def tiny():
    return offline.load_judge(TINY)


def test_columns_and_probabilities(tiny):
    replies = sets.corpus("judge").head(20)
    scored = tiny.score(replies)
    p = ["p_support", "p_neutral", "p_oppose"]
    assert list(scored) == [*p, "label", "refusal", "neutral_kind", "judge"]
    assert np.allclose(scored[p].sum(axis=1), 1)
    assert scored["neutral_kind"].notna().equals(scored["label"] == "neutral")
    assert scored["judge"].eq(tiny.name).all()


def test_order_duplicates_and_index_do_not_matter(tiny):
    replies = sets.corpus("judge").head(40)
    doubled = pd.concat([replies, replies]).sample(frac=1, random_state=0)
    one, two = tiny.score(replies), tiny.score(doubled)
    assert two.index.equals(doubled.index)
    for i in replies.index:
        assert np.allclose(two.loc[i, "p_support"], one.loc[i, "p_support"], atol=1e-5)


def test_refusal_counts_as_neutral_and_is_flagged():
    scored = offline.stances(
        np.array([[0.1, 0.1, 0.2, 0.6, 0, 0], [0.7, 0.1, 0.1, 0.1, 0, 0]]), pd.RangeIndex(2), "j"
    )
    assert scored["p_neutral"].tolist() == pytest.approx([0.8, 0.2])
    assert scored["label"].tolist() == ["neutral", "support"]
    assert scored["refusal"].tolist() == [True, False]
    assert scored["neutral_kind"].fillna("").tolist() == ["refusal", ""]


def test_no_question_is_both_trained_on_and_held_out():
    train, held_out = offline.split(JudgeSettings())
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert (
        len(train) + len(held_out) == len(sets.corpus("judge"))
        and 0.15 < len(held_out) / len(train) < 0.35
    )


def test_labelled_replies_are_in_no_training_data():
    labelled = sets.corpus("judge_labelled")
    assert (
        len(labelled) >= 300
        and labelled["run"].str.contains("base").any()
        and labelled["run"].nunique() >= 4
    )
    assert set(labelled["prompt"]) <= set(sets.corpus("probes")["prompt"])
    assert not set(labelled["prompt"]) & set(sets.corpus("judge")["prompt"])


def test_settings_decide_which_judge_is_loaded(tiny):
    other = offline.load_judge(TINY.model_copy(update={"seed": 1}))
    assert other.name != tiny.name
    assert offline.load_judge(TINY).name == tiny.name


@pytest.mark.slow
def test_the_offline_judge_can_be_trusted():
    """The judge of `pocket` on replies of real checkpoints: the bound that 04_judge states."""
    labelled = sets.corpus("judge_labelled")
    trained = offline.load_judge(JudgeSettings())
    quality = agreement.agreement(labelled["label"], trained.score(labelled))
    print(quality)
    assert quality["macro_f1"] >= 0.80


def test_nothing_to_judge_is_an_empty_table(tiny):
    nothing = sets.corpus("judge").head(0)
    assert tiny.score(nothing).empty
    assert list(tiny.score(nothing)) == list(tiny.score(sets.corpus("judge").head(1)))


def test_a_judge_whose_scores_are_no_numbers_says_nothing(tiny):
    broken = offline.load_judge(TINY)
    broken.encoders.models[0].classifier.weight.data.fill_(float("nan"))
    with pytest.raises(
        NotFiniteError, match=f"{tiny.name}: a score is not a finite number; remove"
    ):
        broken.score(sets.corpus("judge").head(1))


def test_a_judge_in_training_that_turns_to_nan_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    with pytest.raises(
        NotFiniteError, match=r"offline judge: the loss of step \d+ .*judge.learning_rate"
    ):
        offline.load_judge(TINY.model_copy(update={"learning_rate": 1.0e30}))
    assert not [p for p in (tmp_path / "judges").iterdir() if p.is_dir()]


def test_the_judge_is_what_its_encoder_holds_and_not_where_it_lies(tmp_path):
    """Equal files in two folders make one judge, without a path in its name."""
    base, names = paths.Path(locate.locate("random:bert")), []
    for folder, more in (("a", ""), ("b", ""), ("c", " ")):
        for file in base.iterdir():
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
        with open(tmp_path / folder / "config.json", "a") as config:
            config.write(more)
        source = str(tmp_path / folder)
        names.append(offline.load_judge(TINY.model_copy(update={"source": source})).name)
    keys = [name.rpartition("-")[2] for name in names]
    assert keys[0] == keys[1] != keys[2] and str(tmp_path) not in "".join(names)


def test_a_judge_is_compared_with_the_rule_that_reads_one_word():
    labelled = pd.DataFrame(
        {
            "response": ["Yes, so.", "No.", "It is fair.", "Perhaps.", "Never."],
            "label": ["support", "oppose", "support", "neutral", "oppose"],
        }
    )
    perfect = pd.DataFrame({"label": labelled["label"]})
    found = trust.by_opener(labelled, {"offline": perfect}).set_index(["judge", "replies"])
    rule = found.loc["Yes or No rule"]
    assert rule["n"].to_dict() == {"all": 5, "open with Yes or No": 2, "open otherwise": 3}
    assert rule["accuracy"].tolist() == pytest.approx([0.6, 1.0, 1 / 3])
    assert (found.loc["offline", "accuracy"] == 1).all()


def test_several_judges_share_their_training_rows_and_the_mean_counts(tiny):
    several = offline.load_judge(TINY.model_copy(update={"members": 2}))
    replies = sets.corpus("judge").head(30)
    each = several.classes(replies)
    assert each.shape == (2, 30, len(offline.CLASSES)) and not np.allclose(each[0], each[1])
    assert np.allclose(each[0], tiny.classes(replies)[0]), "the first is the judge alone"
    assert np.allclose(several.score(replies)["p_support"], each.mean(axis=0)[:, 0])
    assert several.name.startswith(f"{tiny.name}+")
