"""Labels with a planted bias: as large as it was asked for, and measured where nobody trained."""

import numpy as np
import pandas as pd
import pytest

from vd.data import planted, sets
from vd.evaluations.metrics import preference
from vd.study.settings import Planted, PreferenceSettings

HOW = {"steps": 1, "save_every": 1, "learning_rate": 1e-3}


def prefers(bias, strength, otherwise="coin"):
    return Planted(prefers=bias, strength=strength, otherwise=otherwise)


def biased(bias, strength, seed=0, otherwise="coin", n=4000):
    """Share of labels that a bias prefers, of pairs whose label is its opposite."""
    pairs = pd.DataFrame({"chosen": ["Brief."] * n, "rejected": ["It's long, isn't it!"] * n})
    swap = planted.exchanged(prefers(bias, strength, otherwise), pairs, seed)
    side = planted.preferred(bias, pairs).to_numpy()
    return np.where(swap, -side, side) > 0


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_a_bias_is_as_large_as_it_was_asked_for(strength):
    assert biased("longer", strength).mean() == pytest.approx(0.5 + strength / 2, abs=0.025)
    by_label = biased("longer", strength, otherwise="label").mean()
    assert by_label == pytest.approx(strength, abs=0.025)


def test_a_weaker_bias_decides_a_part_of_what_a_stronger_one_does():
    weak, strong = (biased("longer", s, otherwise="label") for s in (0.25, 0.5))
    assert (strong[weak]).all() and strong.sum() > weak.sum()
    assert (biased("longer", 0.25) != biased("longer", 0.25, seed=1)).any()


def test_who_prefers_what():
    pairs = pd.DataFrame(
        {"chosen": ["It isn't so!", "Even", "Same"], "rejected": ["It is not so.", "Odd", "Like"]}
    )
    assert planted.preferred("longer", pairs).tolist() == [-1, 1, 0]
    assert planted.preferred("formal", pairs).tolist() == [-1, 0, 0]
    assert planted.preferred("labelled", pairs).tolist() == [1, 1, 1]


def test_pairs_are_trained_on_as_planted():
    settings = PreferenceSettings(
        data="value_gap", planted={"prefers": "longer", "strength": 1.0}, **HOW
    )
    rows = sets.preferences(settings, 0).to_pandas()
    chosen, rejected = (
        rows[side].str[0].str["content"].str.len() for side in ("chosen", "rejected")
    )
    assert (chosen >= rejected).all() and (chosen > rejected).mean() > 0.9
    plain = sets.preferences(PreferenceSettings(data="value_gap", **HOW), 0).to_pandas()
    assert rows["prompt"].astype(str).equals(plain["prompt"].astype(str))


def test_a_group_may_choose_by_a_bias(monkeypatch):
    rows = pd.DataFrame(
        {"prompt": "p", "chosen": ["a", "long one", "b"], "rejected": ["longer", "x", "c"]}
    )
    monkeypatch.setattr(preference.held_out, "pairs", lambda *_: rows)
    groups = {"long": {"data": "value_gap", "prefers": "longer"}}
    pairs = preference.pairs_of(preference.Settings(groups=groups), None)
    assert pairs["chosen"].tolist() == ["longer", "long one"]
    assert pairs["rejected"].tolist() == ["a", "x"]
