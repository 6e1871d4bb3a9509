"""What a drift is made of: agreeing or leaning, one word or more."""

import numpy as np
import pandas as pd
import pytest

from vd.drift import acquiescence, measures, openers
from vd.stances import P, opener, to_topic
from vd.study.settings import Bootstrap

FEW = Bootstrap(resamples=200)


def world(net, per_kind=(10, 10), topics=("a", "b"), spread=0.0, run="m/r/seed-0", seed=0):
    """Stances with these net stances, by step and polarity: [(net+, net-), ...]."""
    rng, rows = np.random.default_rng(seed), []
    for topic in topics:
        for sign, n in zip((1, -1), per_kind, strict=True):
            for i in range(n):
                own = rng.normal(0, spread)
                for step, both in enumerate(net):
                    mean = both[0 if sign > 0 else 1] + own + rng.normal(0, spread)
                    support = 0.4 + mean / 2
                    named = (run, step, f"{topic}{sign:+}{i}", topic, 0, sign)
                    rows.append((*named, support, 0.2, 0.8 - support))
    columns = ["run", "step", "prompt_id", "topic", "sample", "polarity", *P]
    return pd.DataFrame(rows, columns=columns)


def polarity(table):
    return table.drop_duplicates("prompt_id").set_index("prompt_id")["polarity"]


@pytest.mark.parametrize("per_kind", [(10, 10), (12, 4)])
def test_saying_yes_to_both_is_no_position(per_kind):
    """From neither, to agreeing with everything, to a position, whatever kind has more probes."""
    table = world([(0, 0), (0.4, 0.4), (0.3, -0.3)], per_kind)
    found = acquiescence.tables(table, polarity(table), FEW)[0].set_index(
        ["topic", "step", "measure"]
    )["value"]
    for topic in ("a", "b", "all"):
        expected = {(0, "acquiescence"): 0, (0, "lean"): 0, (1, "acquiescence"): 0.4}
        expected |= {(1, "lean"): 0, (2, "acquiescence"): 0, (2, "lean"): 0.3}
        assert found[topic].to_dict() == pytest.approx(expected)


def test_on_balanced_probes_they_are_the_net_stances_of_both_levels():
    table = world([(0.1, 0.2), (0.5, -0.2)], spread=0.05)
    _, found = acquiescence.tables(table, polarity(table), FEW)
    found = found[found["topic"] == "all"].set_index("measure")["drift"]
    table["label"] = "support"
    both = pd.concat([table.assign(target="question"), to_topic(table, polarity(table))])
    for level, measure in (("question", "acquiescence"), ("topic", "lean")):
        moved = measures.drift_table(both, FEW, level)
        moved = moved[moved["topic"] == "all"].set_index("stance")["magnitude"]
        assert found[measure] == pytest.approx(moved["support"] - moved["oppose"])


def test_intervals_cover_and_seeds_are_pooled():
    hits = []
    for trial in range(40):
        parts = [
            world([(0, 0), (0.3, 0.1)], spread=0.1, run=f"m/r/seed-{s}", seed=10 * trial + s)
            for s in range(3)
        ]
        table = pd.concat(parts)
        _, found = acquiescence.tables(table, polarity(table), FEW, pool=True)
        found = found[found["topic"] == "all"].set_index("measure")
        assert found["n_seeds"].eq(3).all() and set(found["run"]) == {"m/r"}
        for measure, truth in (("acquiescence", 0.2), ("lean", 0.1)):
            hits.append(found.loc[measure, "lo"] <= truth <= found.loc[measure, "hi"])
    assert np.mean(hits) >= 0.9


def test_topics_with_one_kind_of_probe_are_left_out():
    table = world([(0, 0), (0.4, 0.4)])
    one_sided = table[(table["topic"] == "b") | (table["polarity"] == 1)]
    _, found = acquiescence.tables(one_sided, polarity(table), FEW)
    assert set(found["topic"]) == {"b", "all"}
    for neither in acquiescence.tables(table[table["polarity"] == 1], polarity(table), FEW):
        assert neither.empty and "measure" in neither


# one word


def test_openers_are_first_words():
    texts = ["Yes, it is.", "no", '"Yes" they say', "Nobody knows.", "", "Yesterday", "**No.**"]
    found = opener(pd.Series(texts)).tolist()
    assert found == ["yes", "no", "yes", "other", "other", "other", "no"]


def test_a_drift_is_split_between_and_within_openers():
    """Twice as many replies open with Yes, which means support; the others lean more as well."""
    rows = []
    for step, (n_yes, support) in enumerate([(2, 0.2), (4, 0.4)]):
        for i in range(8):
            yes = i < n_yes
            rows.append(("r", step, i, "t", 0, "yes" if yes else "other", 0.9 if yes else support))
    columns = ["run", "step", "prompt_id", "topic", "sample", "opener", "p_support"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_neutral"], table["p_oppose"] = 1 - table["p_support"], 0.0
    found = openers.decomposition(table, table["opener"]).set_index("stance")
    row = found.loc["support"]
    moved = measures.drift_table(table, FEW).set_index(["topic", "stance"])["magnitude"]
    assert row["drift"] == pytest.approx(moved["all", "support"]) == pytest.approx(0.275)
    # shares of yes go from 1/4 to 1/2, whose mean is 0.9 against 0.3 on average
    assert row["between"] == pytest.approx(0.25 * 0.9 - 0.25 * 0.3)
    assert row["within"] == pytest.approx((0.75 + 0.5) / 2 * 0.2)
    shares = openers.shares(table, table["opener"]).set_index("step")
    assert shares["yes"].to_dict() == {0: 0.25, 1: 0.5} and shares["no"].eq(0).all()


def test_an_opener_that_is_new_is_all_between():
    rows = [("r", 0, i, "t", 0, "other", 0.3) for i in range(4)]
    rows += [("r", 1, i, "t", 0, "yes", 0.9) for i in range(4)]
    columns = ["run", "step", "prompt_id", "topic", "sample", "opener", "p_support"]
    table = pd.DataFrame(rows, columns=columns).assign(p_neutral=0.1, p_oppose=0.0)
    row = openers.decomposition(table, table["opener"]).set_index("stance").loc["support"]
    assert (row["between"], row["within"]) == pytest.approx((0.6, 0.0))
    base = openers.decomposition(table[table["step"] == 0], table["opener"])
    assert base.empty, "a run with one checkpoint has no drift"


def test_judged_and_logit_stances_meet_at_the_checkpoints_that_have_both():
    seeds = [world([(0, 0), (0.4, 0.2), (0.3, -0.3)], run=f"m/r/seed-{s}", seed=s) for s in (0, 1)]
    table = pd.concat(seeds, ignore_index=True)
    odds = table.assign(net=2 * (table["p_support"] - table["p_oppose"]), mass=0.1 * table["step"])
    judged, _ = acquiescence.tables(table[table["step"] != 1], polarity(table), FEW, pool=True)
    logits, _ = acquiescence.tables(odds, polarity(table), FEW, pool=True)
    found = acquiescence.side_by_side(judged, logits, odds).set_index(["step", "measure"])
    assert set(found["run"]) == {"m/r"} and sorted(found.index.unique("step")) == [0, 2]
    assert found["logit"].to_numpy() == pytest.approx(2 * found["judged"].to_numpy())
    assert found.loc[(2, "lean")][["judged", "mass"]].tolist() == pytest.approx([0.3, 0.2])
