"""Prediction-powered inference: what is drawn, what is estimated, whether intervals cover."""

import numpy as np
import pandas as pd
import pytest

from vd.drift import paid_simulation
from vd.judging import few_paid
from vd.stances import P


@pytest.fixture(scope="module")
def replies():
    rng = np.random.default_rng(0)
    return paid_simulation._population(rng, 0.5, 10, 5, 3)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 1.0])
def test_the_draw_is_a_share_of_every_checkpoint_and_topic(replies, share):
    rows, _ = replies
    mask = few_paid.draw(rows, share, seed=0)
    assert rows[mask].groupby(["step", "topic"]).size().eq(round(50 * share)).all()
    assert mask.index.equals(rows.index)


def test_the_draw_is_the_same_at_every_checkpoint_and_spread_over_prompts(replies):
    rows = replies[0][few_paid.draw(replies[0], 0.2, seed=0)]
    assert rows.groupby("prompt_id").size().eq(2).all()
    drawn = {
        step: set(zip(part["prompt_id"], part["sample"], strict=True))
        for step, part in rows.groupby("step")
    }
    assert drawn[0] == drawn[1]


def test_a_larger_share_contains_a_smaller_one_and_the_order_of_rows_does_not_matter(replies):
    rows, _ = replies
    small, large = (few_paid.draw(rows, share, seed=0) for share in (0.1, 0.4))
    assert (small <= large).all() and not few_paid.draw(rows, 0.1, seed=1).equals(small)
    shuffled = rows.sample(frac=1, random_state=0)
    assert few_paid.draw(shuffled, 0.1, seed=0).reindex(rows.index).equals(small)


def test_every_reply_is_drawn_as_often():
    rows = pd.DataFrame(
        {"step": 0, "topic": "t", "prompt_id": np.repeat(range(6), 3), "sample": list(range(3)) * 6}
    )
    often = sum(few_paid.draw(rows, 0.25, seed).astype(int) for seed in range(2000))
    assert often.sum() == 2000 * 4 and (often / 2000 - 4 / 18).abs().max() < 0.04


def test_all_paid_is_the_paid_judge(replies):
    paid, cheap = replies
    assert np.allclose(few_paid.rectify(cheap, paid, paid)[P], paid[P])


def test_rows_sum_to_one_and_means_are_hand_computed(replies):
    paid, cheap = replies
    drawn = paid[few_paid.draw(paid, 0.2, 0)]
    values = few_paid.rectify(cheap, drawn, paid)[P]
    assert np.allclose(values.sum(axis=1), 1)
    # without any information in the cheap judge each stratum's mean is that of its drawn replies
    flat = cheap.assign(**dict.fromkeys(P, 1 / 3))
    means = few_paid.rectify(flat, drawn, paid).groupby(["step", "topic"])["p_support"].mean()
    assert np.allclose(means, drawn.groupby(["step", "topic"])["p_support"].mean())


def test_rows_that_could_not_be_judged_count_as_not_drawn(replies):
    paid, cheap = replies
    drawn = paid[few_paid.draw(paid, 0.2, 0)]
    failed = drawn.copy()
    failed.loc[failed.index[:3], P] = np.nan
    assert np.allclose(
        few_paid.rectify(cheap, failed, paid)[P], few_paid.rectify(cheap, drawn.iloc[3:], paid)[P]
    )
    with pytest.raises(ValueError, match="step 0, topic 1: the paid judge judged none"):
        few_paid.rectify(cheap, drawn[(drawn["step"] != 0) | (drawn["topic"] != "1")], paid)


def test_the_estimate_is_unbiased_however_wrong_the_cheap_judge():
    errors = []
    for seed in range(300):
        paid, cheap = paid_simulation._population(np.random.default_rng(seed), 0.5, 10, 5, 3)
        values = few_paid.rectify(cheap, paid[few_paid.draw(paid, 0.2, seed)], paid)
        step = paid["step"] == 1
        errors.append(values[step]["p_support"].mean() - paid[step]["p_support"].mean())
        assert abs(cheap[step]["p_support"].mean() - paid[step]["p_support"].mean()) < 0.3
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(300)


def test_intervals_cover_and_a_good_cheap_judge_saves_calls():
    """95 % intervals of drift cover 93 to 97 % of the time.

    The cheap judge alone would be confidently wrong.
    """
    table = paid_simulation.summary(
        paid_simulation.simulate(share=0.2, noise=0.3, replications=500)
    ).set_index("way")
    print(table)
    assert 0.93 <= table.loc["share paid, rest cheap", "covered"] <= 0.97
    assert table.loc["all cheap", "covered"] < 0.5
    assert (
        table.loc["share paid, rest cheap", "calls_alone"] > 1.2 * table.loc["share paid", "calls"]
    )


def test_calls_alone_by_hand():
    assert few_paid.calls_alone(100, 1000, r2=0) == pytest.approx(100)
    assert few_paid.calls_alone(100, 1000, r2=1) == pytest.approx(1000)
