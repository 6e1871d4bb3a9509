"""Drift measures.

Hand-computed cases, properties, coverage of the intervals by simulation, speed.
"""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vd.drift import data_sets, measures
from vd.stances import STANCES, P, to_topic
from vd.study.settings import Bootstrap

FEW = Bootstrap(resamples=50)


def frame(scores, topic="t", run="r", spacing=10):
    """A stance table from scores (prompts, samples, steps, 3)."""
    p, s, t = (axis.ravel() for axis in np.indices(scores.shape[:3]))
    table = pd.DataFrame(
        {
            "run": run,
            "step": t * spacing,
            "prompt_id": [f"{topic}-{i:03}" for i in p],
            "topic": topic,
            "sample": s,
        }
    )
    table[["p_support", "p_neutral", "p_oppose"]] = scores.reshape(-1, 3)
    return table


def row(table, stance="support", topic="t"):
    return table[(table["stance"] == stance) & (table["topic"] == topic)].iloc[0]


def constant_prompts(path):
    """Four prompts, two samples, all following one path of support; neutral takes the rest."""
    support = np.broadcast_to(np.array(path, float), (4, 2, len(path)))
    return np.stack([support, 1 - support, np.zeros_like(support)], axis=-1)


def test_magnitude_and_time_by_hand():
    table = measures.drift_table(
        frame(constant_prompts([0.1, 0.5, 0.9, 0.9, 0.8])), Bootstrap(resamples=100)
    )
    support, neutral, oppose = (row(table, s) for s in STANCES)
    assert support["magnitude"] == pytest.approx(0.7) and neutral["magnitude"] == pytest.approx(
        -0.7
    )
    assert oppose["magnitude"] == 0
    # the extreme 0.9 is first reached after two of four steps; neutral falls to its minimum at the
    # same step
    assert support["time"] == neutral["time"] == 0.5
    # the middle, 0.45, is crossed shortly before the first of the steps, which lie 10 apart
    assert support["half_time"] == neutral["half_time"] == pytest.approx(8.75)
    # it went up by 0.8 before it came back
    assert support["excursion"] == pytest.approx(0.8) and support["excursion_step"] == 20
    assert support["room"] == pytest.approx(0.7 / 0.9) and neutral["room"] == pytest.approx(-7 / 9)
    assert support["log_odds"] == pytest.approx(np.log(0.8 / 0.2) - np.log(0.1 / 0.9))
    # what did not move has no time
    assert np.isnan(oppose["time"]) and np.isnan(oppose["half_time"]) and oppose["excursion"] == 0
    # identical prompts leave nothing to resample
    assert support["magnitude_lo"] == pytest.approx(0.7) and support[
        "magnitude_hi"
    ] == pytest.approx(0.7)
    assert (support["n_prompts"], support["n_samples"]) == (4, 2)


def test_columns_are_the_contract():
    table = measures.drift_table(frame(constant_prompts([0.1, 0.2])), Bootstrap(resamples=10))
    assert list(table.columns) == measures.COLUMNS
    assert set(table["topic"]) == {"t", "all"}


def test_prompts_count_once_however_many_replies_they_have():
    table = frame(np.stack([constant_prompts([0.0, 1.0])[0], constant_prompts([0.0, 0.0])[0]]))
    fewer = table.drop(table[(table["prompt_id"] == "t-000") & (table["sample"] == 1)].index)
    assert row(measures.drift_table(fewer, FEW))["magnitude"] == pytest.approx(0.5)
    values = measures.stance_distribution(fewer)
    assert values[
        (values["step"] == 10) & (values["stance"] == "support") & (values["topic"] == "all")
    ]["probability"].item() == pytest.approx(0.5)


def test_failed_judgements_are_left_out_not_counted_as_zero():
    table = frame(constant_prompts([0.2, 0.8]))
    table.loc[0, ["p_support", "p_neutral", "p_oppose"]] = np.nan
    assert row(measures.drift_table(table, FEW))["magnitude"] == pytest.approx(0.6)


def test_all_is_the_mean_over_prompts():
    one = frame(constant_prompts([0.0, 1.0]), "a")
    two = frame(constant_prompts([0.0, 0.0])[:2], "b")
    assert row(measures.drift_table(pd.concat([one, two]), FEW), topic="all")[
        "magnitude"
    ] == pytest.approx(4 / 6)


def test_topic_level_swaps_support_and_oppose_for_negative_polarity():
    question = frame(constant_prompts([0.2, 0.8])).assign(label="support", target="question")
    polarity = pd.Series({f"t-{i:03}": -1 if i < 2 else 1 for i in range(4)})
    topic = to_topic(question, polarity)
    table = measures.drift_table(pd.concat([question, topic]), FEW, target="topic")
    assert row(table, "support")["magnitude"] == pytest.approx(0.3)
    assert row(table, "oppose")["magnitude"] == pytest.approx(0.3)
    assert topic.loc[topic["prompt_id"] == "t-000", "label"].eq("oppose").all()
    assert question["label"].eq("support").all()


def test_value_gap_is_chosen_minus_rejected():
    chosen = frame(constant_prompts([0.9])).assign(dataset="d")
    rejected = frame(constant_prompts([0.2])).assign(dataset="d")
    table = data_sets.value_gap(
        chosen[chosen["sample"] == 0], rejected[rejected["sample"] == 0], FEW
    )
    assert table[(table["stance"] == "support") & (table["topic"] == "all")][
        "gap"
    ].item() == pytest.approx(0.7)


def test_ways_to_be_neutral_are_told_apart():
    table = frame(constant_prompts([0.2, 0.8])).assign(neutral_kind=None)
    table.loc[table["step"] == 10, "neutral_kind"] = "refusal"
    found = measures.neutral_table(table)
    assert found["refusal"].tolist() == [0, 1] and not found[["hedge", "degenerate"]].any(axis=None)


def test_drift_among_replies_that_are_no_refusals():
    """Neutral grows by refusing alone; and a topic that is always refused stops nothing."""
    told, refused = constant_prompts([0.2, 0.2]), constant_prompts([0.5, 0.5])
    table = pd.concat([frame(told), frame(refused, "never")]).assign(refusal=False)
    late = (table["step"] > 0) & table["prompt_id"].isin(["t-000", "t-001"])
    table.loc[late | table["topic"].eq("never"), "refusal"] = True
    table.loc[late, ["p_support", "p_neutral"]] = 0.0, 1.0
    assert row(measures.drift_table(table, FEW), "neutral")["magnitude"] == pytest.approx(0.1)
    found = measures.answered_table(table, FEW)
    assert set(found["topic"]) == {"t", "all"} and row(found)["n_prompts"] == 2
    assert row(found, "neutral")["magnitude"] == pytest.approx(0)
    assert measures.answered_table(table.assign(refusal=True), FEW).empty


@st.composite
def random_scores(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(2, 5)))
    return np.random.default_rng(draw(st.integers(0, 2**32))).dirichlet([0.5] * 3, size=shape)


@settings(max_examples=40, deadline=None)
@given(random_scores())
def test_magnitudes_cancel_and_times_are_fractions(scores):
    table = measures.drift_table(frame(scores), FEW)
    assert table.groupby("topic")["magnitude"].sum().abs().max() < 1e-9
    moved = (table["magnitude_lo"] > 0) | (table["magnitude_hi"] < 0)
    moved &= scores.shape[2] > 2  # two checkpoints do not tell
    assert (table["time"].notna() == moved).all() and (table["half_time"].notna() == moved).all()
    assert table[["time", "time_lo", "time_hi"]].stack().dropna().between(0, 1).all()
    # a drift that can be told from none has not arrived where it starts
    assert table.loc[moved, "time"].gt(0).all()
    assert table.loc[moved, "half_time"].le(10 * (scores.shape[2] - 1)).all()
    assert (table["magnitude_lo"] <= table["magnitude_hi"]).all()
    assert (table["excursion"].abs() >= table["magnitude"].abs() - 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(random_scores(), st.integers(0, 2**32 - 1))
def test_order_of_rows_changes_nothing(scores, seed):
    table = frame(scores)
    shuffled = table.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(
        measures.drift_table(table, FEW),
        measures.drift_table(shuffled, FEW),
    )


@settings(max_examples=20, deadline=None)
@given(random_scores())
def test_a_constant_trajectory_does_not_drift(scores):
    constant = np.repeat(scores[:, :, :1], 4, axis=2)
    table = measures.drift_table(frame(constant), FEW)
    assert np.allclose(table[["magnitude", "magnitude_lo", "magnitude_hi", "log_odds"]], 0)
    assert table[["time", "half_time"]].isna().all(axis=None)


def simulate(n_prompts, n_samples, spread, graded, rng):
    """Replies of prompts whose stances vary (the less, the larger `spread`).

    True magnitudes +0.3, -0.3 and 0.
    """
    scores = np.empty((n_prompts, n_samples, 3, 3))
    for step, mean in enumerate(([0.2, 0.6, 0.2], [0.4, 0.4, 0.2], [0.5, 0.3, 0.2])):
        prompts = rng.dirichlet(np.array(mean) * spread, size=n_prompts) + 1e-9
        for i, p in enumerate(prompts / prompts.sum(axis=1, keepdims=True)):
            scores[i, :, step] = (
                rng.dirichlet(p * 8, n_samples) if graded else rng.multinomial(1, p, n_samples)
            )
    return scores


@pytest.mark.parametrize(
    ("n_prompts", "n_samples", "spread", "graded"),
    [(50, 5, 2, True), (50, 5, 200, False), (50, 5, 5, False), (10, 2, 5, False)],
    ids=["prompts differ", "replies differ", "both differ", "few prompts"],
)
def test_95_percent_intervals_cover_the_truth(n_prompts, n_samples, spread, graded):
    rng = np.random.default_rng(1)
    truth, hits, trials = np.array([0.3, -0.3, 0.0]), 0, 300
    for trial in range(trials):
        table = measures.drift_table(
            frame(simulate(n_prompts, n_samples, spread, graded, rng)),
            Bootstrap(resamples=300, seed=trial),
        )
        part = table[table["topic"] == "t"]
        hits += ((part["magnitude_lo"] <= truth) & (truth <= part["magnitude_hi"])).sum()
    assert 0.92 <= hits / (3 * trials) <= 0.98


def test_paper_size_takes_seconds():
    rng = np.random.default_rng(0)
    topics = [frame(rng.dirichlet([1, 1, 1], size=(50, 5, 20)), f"topic-{i}") for i in range(11)]
    start = time.perf_counter()
    table = measures.drift_table(pd.concat(topics), Bootstrap(resamples=2000))
    assert time.perf_counter() - start < 20
    assert table["n_prompts"].max() == 550


def seeds_frame(scores, topic="t"):
    """A stance table from scores (seeds, prompts, samples, steps, 3)."""
    return pd.concat(
        [frame(part, topic, run=f"m/r/seed-{seed}") for seed, part in enumerate(scores)]
    )


def test_pooling_one_seed_changes_nothing():
    rng = np.random.default_rng(0)
    table = pd.concat(
        [frame(rng.dirichlet([1, 1, 1], size=(5, 2, 4)), t, run="m/r/seed-7") for t in "ab"]
    )
    for measure in (measures.drift_table, measures.trajectory_table):
        single, pooled = measure(table, FEW), measure(table, FEW, pool=True)
        assert set(pooled["run"]) == {"m/r"}
        pd.testing.assert_frame_equal(
            single.drop(columns="run"), pooled[single.columns].drop(columns="run")
        )
    assert list(measures.drift_table(table, FEW, pool=True).columns) == [
        *measures.COLUMNS,
        "n_seeds",
    ]


def test_pooled_seeds_by_hand():
    scores = np.stack(
        [constant_prompts([0.1, 0.5]), constant_prompts([0.1, 0.7]), constant_prompts([0.1, 0.6])]
    )
    found = row(measures.drift_table(seeds_frame(scores), Bootstrap(resamples=2000), pool=True))
    assert found["magnitude"] == pytest.approx(0.5) and (found["n_seeds"], found["n_prompts"]) == (
        3,
        4,
    )
    # the standard error of their mean is 0.1 / sqrt(3), and t with two degrees of freedom is 4.30
    assert found["magnitude_hi"] - 0.5 == pytest.approx(4.30 * 0.1 / 3**0.5, rel=0.15)


def straight(ends, n_prompts=200, n_steps=5, samples=5):
    """Seeds whose support rises in a straight line to these ends, with replies drawn by it."""
    rng, steps = np.random.default_rng(0), np.linspace(0, 1, n_steps)
    support = np.stack([0.1 + (end - 0.1) * steps for end in ends])
    drawn = rng.random((len(ends), n_prompts, samples, n_steps)) < support[:, None, None]
    scores = np.zeros((*drawn.shape, 3))
    scores[..., 0], scores[..., 1] = drawn, ~drawn
    return seeds_frame(scores)


def test_seeds_that_end_at_different_levels_are_as_late_as_each_of_them():
    """Each rises to its last checkpoint; the interval of the pooled level would call it early."""
    found = row(measures.drift_table(straight([0.55, 0.80, 0.72]), Bootstrap(), pool=True))
    assert found["time"] == 1 and found["time_hi"] == 1
    assert found["half_time"] == pytest.approx(20, abs=2)
    assert found["half_time_lo"] < 20 < found["half_time_hi"]


def test_half_time_does_not_depend_on_the_number_of_prompts_or_on_longer_training():
    def measured(n_prompts, until):
        steps = np.arange(0, until + 1, 5)
        path = 0.08 + 0.85 * (1 - np.exp(-steps / 20))
        rng = np.random.default_rng(0)
        support = np.clip(path + rng.normal(0, 0.3, (n_prompts, 1, len(steps))), 0, 1)
        scores = np.stack([support, 1 - support, np.zeros_like(support)], axis=-1)
        return row(measures.drift_table(frame(scores, spacing=5), Bootstrap(resamples=200)))

    few, many, longer = measured(20, 80), measured(2000, 80), measured(2000, 320)
    assert many["time"] > few["time"] and longer["time"] < many["time"], "eta depends on both"
    assert many["half_time"] == pytest.approx(13.4, abs=1.5)
    assert few["half_time"] == pytest.approx(many["half_time"], abs=3)
    assert longer["half_time"] == pytest.approx(many["half_time"], abs=1.5)


@pytest.mark.parametrize("mean", [0.5, 0.97])
def test_intervals_of_probabilities_stay_inside_and_cover_at_the_ceiling(mean):
    rng, hits, trials = np.random.default_rng(0), 0, 6
    for trial in range(trials):
        # 50 checkpoints are as many independent studies
        of_prompt = rng.beta(mean * 20, (1 - mean) * 20, (40, 1, 50))
        support = (rng.random((40, 5, 50)) < of_prompt).astype(float)
        scores = np.stack([support, 1 - support, np.zeros_like(support)], axis=-1)
        table = measures.trajectory_table(frame(scores), Bootstrap(resamples=400, seed=trial))
        found = table[(table["topic"] == "all") & (table["stance"] == "support")]
        assert found[["lo", "hi"]].stack().between(0, 1).all()
        hits += ((found["lo"] <= mean) & (found["hi"] >= mean)).sum()
    assert 0.91 <= hits / (50 * trials) <= 0.99


def test_runs_with_fewer_seeds_are_pooled_over_those_they_have():
    rng = np.random.default_rng(0)
    three, one = (
        rng.dirichlet([1, 1, 1], size=(3, 6, 2, 3)),
        rng.dirichlet([1, 1, 1], size=(6, 2, 3)),
    )
    both = pd.concat([seeds_frame(three), frame(one, run="m/other/seed-1")])
    table = measures.drift_table(both, FEW, pool=True)
    assert table.groupby("run")["n_seeds"].first().to_dict() == {"m/other": 1, "m/r": 3}
    alone = measures.drift_table(seeds_frame(three), FEW, pool=True)
    pd.testing.assert_frame_equal(table[table["run"] == "m/r"].reset_index(drop=True), alone)


def test_seeds_that_cannot_be_pooled_are_named():
    table = frame(constant_prompts([0.1, 0.5]))
    with pytest.raises(ValueError, match="seed"):
        measures.drift_table(table, Bootstrap(resamples=10), pool=True)
    uneven = pd.concat(
        [table.assign(run="m/r/seed-0"), table[table["step"] == 0].assign(run="m/r/seed-1")]
    )
    with pytest.raises(ValueError, match=r"m/r, topic t.*every seed"):
        measures.drift_table(uneven, Bootstrap(resamples=10), pool=True)


@pytest.mark.parametrize(
    ("n_topics", "n_prompts", "prompts", "seeds", "replies"),
    [
        (11, 8, 0.3, 0, 0.2),
        (11, 8, 0.3, 0.05, 0.2),
        (11, 8, 0.1, 0.15, 0.2),
        (1, 8, 0.3, 0, 0.2),
        (1, 8, 0.1, 0.15, 0.2),
    ],
    ids=["no seed effect", "small", "large", "one topic, no seed effect", "one topic, large"],
)
def test_pooled_intervals_cover_the_truth(n_topics, n_prompts, prompts, seeds, replies):
    rng, hits, trials = np.random.default_rng(0), 0, 5

    def noise(spread, *shape):
        """Normal noise for 50 checkpoints and 3 stances, so that one table holds 150 independent
        studies.
        """
        return rng.normal(0, spread, (*shape, 50, 3))

    for trial in range(trials):
        of_seed, topics = noise(seeds, 3, 1, 1), []
        for topic in range(n_topics):
            # probabilities, but for rare replies; their means stay far from 0 and 1
            cells = 0.5 + of_seed + noise(prompts, 1, n_prompts, 1) + noise(0.1, 3, n_prompts, 1)
            topics.append(seeds_frame(cells + noise(replies, 3, n_prompts, 2), f"topic-{topic}"))
        table = measures.trajectory_table(
            pd.concat(topics), Bootstrap(resamples=400, seed=trial), pool=True
        )
        found = table[table["topic"] == "all"]
        hits += ((found["lo"] <= 0.5) & (found["hi"] >= 0.5)).sum()
    assert 0.92 <= hits / (150 * trials) <= 0.98


# what tables of others may bring


def test_a_topic_of_the_name_of_their_sum_is_refused():
    rows = pd.concat([frame(constant_prompts([0.1, 0.5]), topic) for topic in ("t", "all")])
    for measure in (measures.drift_table, measures.trajectory_table):
        with pytest.raises(ValueError, match=r"r: topic 'all' of prompt 'all-000'; .* none may be"):
            measure(rows, FEW)
    with pytest.raises(ValueError, match="none may be 'all'"):
        measures.stance_distribution(rows)
    lost = frame(constant_prompts([0.1, 0.5])).assign(topic=None)
    with pytest.raises(ValueError, match="r: topic 'None' of prompt 't-000'; every reply needs"):
        measures.drift_table(lost, Bootstrap())


def test_a_topic_without_a_judged_reply_at_one_step_is_named():
    rows = pd.concat([frame(constant_prompts([0.1, 0.5, 0.9]), topic) for topic in "ab"])
    lost = (rows["topic"] == "b") & (rows["step"] == 10)
    for partly in (rows[~lost], rows.assign(p_support=rows["p_support"].mask(lost))):
        with pytest.raises(ValueError, match="r, topic b: no prompt has a judged reply at every"):
            measures.drift_table(partly, Bootstrap(resamples=10))


def test_topics_that_are_numbers_are_names():
    named = measures.drift_table(frame(constant_prompts([0.1, 0.5]), "7"), Bootstrap(resamples=10))
    numbered = measures.drift_table(frame(constant_prompts([0.1, 0.5]), 7), Bootstrap(resamples=10))
    pd.testing.assert_frame_equal(numbered.astype({"topic": str}), named, check_dtype=False)


def test_two_prompts_of_one_name_are_named():
    rows = frame(constant_prompts([0.1, 0.5]))
    with pytest.raises(ValueError, match="r, topic t: prompt 't-000' is there twice at step 0"):
        measures.drift_table(pd.concat([rows, rows]), Bootstrap(resamples=10))


NO_POLARITY = [({}, "none"), ({"t-002": None}, "nan"), ({"t-002": 2}, "2")]


@pytest.mark.parametrize(("given", "said"), NO_POLARITY)
def test_a_prompt_without_polarity_is_named_not_counted_as_support(given, said):
    question = frame(constant_prompts([0.2, 0.8])).assign(label="support")
    polarity = pd.Series({f"t-{i:03}": 1 for i in range(4) if i != 2} | given, dtype=float)
    with pytest.raises(ValueError, match=f"prompt 't-002': polarity is {said}.*; write 1, -1 or 0"):
        to_topic(question, polarity)


def test_data_sets_of_which_nothing_was_judged_are_named():
    sides = frame(constant_prompts([0.9])).query("sample == 0").assign(dataset="d", side="chosen")
    wanted = pd.DataFrame({"dataset": ["d", "e"], "side": "chosen"})
    table = data_sets.with_empty(data_sets.profile(sides), wanted)
    assert table["n_replies"].tolist() == [4] * 3 + [0] * 3
    assert table["probability"].isna().tolist() == [False] * 3 + [True] * 3
    assert data_sets.with_empty(table, wanted) is table
    none = data_sets.profile(sides[:0])
    assert data_sets.with_empty(none, wanted[1:])["stance"].tolist() == list(STANCES)
    gap = data_sets.value_gap(sides[:0], sides[:0], Bootstrap(resamples=10))
    gap = data_sets.with_empty(gap, wanted[["dataset"]].assign(topic="all"))
    assert gap["n_pairs"].tolist() == [0] * 6 and gap["gap"].isna().all()


def test_spread_of_judges_by_hand():
    rows = [
        (f"m/a/seed-{seed}", step, member, 0.1, 0.5, 0.4 if step == 0 else 0.4 - 0.1 * member)
        for seed in (0, 1)
        for step in (0, 5, 10)
        for member in (0, 1)
    ]
    columns = ["run", "step", "member", *P]
    found = measures.judge_spread(pd.DataFrame(rows, columns=columns)).set_index("stance")
    # one judge sees oppose fall by 0.1, the other not at all
    assert found.loc["oppose", "judge_sd"] == pytest.approx(0.1 / np.sqrt(2))
    assert found.loc["support", "judge_sd"] == 0 and set(found["run"]) == {"m/a"}
