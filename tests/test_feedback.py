"""Tables and figures of feedback by a model, on numbers that are known."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from test_registered_labs import BIAS, biased, study

from vd.figures import curves, feedback
from vd.findings.papers import planted_bias


def measured(ends, seeds=3):
    """Evaluations of runs, whose ends differ by seed, around what is given: role, key to ends."""
    rows = []
    for role, values in ends.items():
        for seed in range(seeds):
            run = f"m/{BIAS[role]}/seed-{seed}"
            for (evaluation, metric), (start, end) in values.items():
                for step, value in ((0, start), (12, end + 0.01 * (seed - 1))):
                    about = {"run": run, "step": step, "evaluation": evaluation, "metric": metric}
                    rows.append({**about, "value": value, "lo": value, "hi": value, "n": 90})
    return pd.DataFrame(rows)


def test_states_of_chains_and_what_a_judge_says_of_each_step():
    tried = pd.DataFrame(
        {
            "harmful_0": [True, True, False, False],
            "harmful_1": [False, True, False, True],
            "state_1": ["changed", "unchanged", "broken", "worse"],
        }
    )
    found = feedback.states(tried)
    assert found["harmful"].tolist() == [0.5, 0.5] and found.loc[1, "broken"] == 0.25
    assert found.loc[0, ["changed", "worse"]].isna().all()  # the reply is no revision
    unjudged = feedback.states(tried.assign(harmful_0=None, harmful_1=None))
    assert unjudged["harmful"].isna().all()


def test_amplification_is_the_ratio_of_two_biases():
    ends = {
        role: {k: v for k, v in own.items() if k != "log-odds"} for role, own in biased(1.5).items()
    }
    table = feedback.amplification(study("planted-bias", BIAS, 3), measured(ends))
    assert len(table) == 2 * 3 * 4 and set(table["n_seeds"]) == {3}
    weak = table[table["strength"] < 1]
    assert weak["amplification"].to_numpy() == pytest.approx(1.5)
    # seeds are paired with those of coin flips, which they share here
    assert (weak["hi"] - weak["lo"]).max() == pytest.approx(0, abs=1e-9)
    assert table.loc[table["strength"] == 1, "value"].to_numpy() == pytest.approx(0.5)
    figure = feedback.amplified(table)
    assert [ax.get_title() for ax in figure.axes] == list(planted_bias.BIASES.values())
    plt.close(figure)


def test_a_study_may_plant_less():
    roles = {"dpo_longer_0": "sft/dpo-longer-0", "dpo_longer_50": "sft/dpo-longer-50"}
    ends = {
        role: {("preference", "accuracy longer"): (0.5, share)}
        for role, share in zip(roles, (0.55, 0.7), strict=True)
    }
    table = feedback.amplification(study("planted-bias", roles, 3), measured(ends))
    assert table[["method", "bias", "strength"]].values.tolist() == [["dpo", "longer", 0.5]]
    assert table["amplification"].item() == pytest.approx(0.15 / 0.25)
    plt.close(feedback.amplified(table))


def test_curves_over_steps():
    ends = {"dpo_longer_0": {("safety", "harmful"): (0.5, 0.3), ("safety", "evasive"): (0.1, 0.2)}}
    table = curves.over_steps(measured(ends), "safety", ("harmful", "evasive"), 0.05)
    assert table["step"].tolist() == [0, 12, 0, 12] and table["n_seeds"].eq(3).all()
    assert table["value"].to_numpy() == pytest.approx([0.5, 0.3, 0.1, 0.2])
    reach = 4.303 * np.sqrt(0.01**2 / 3)  # Student's t with two degrees of freedom
    assert table["hi"][1] - 0.3 == pytest.approx(reach, rel=1e-3)
    some = curves.over_steps(measured(ends), "safety", ("refused", "harmful"), 0.05)
    assert some["metric"].unique().tolist() == ["harmful"]
    figure = curves.panels(table)
    assert [ax.get_title() for ax in figure.axes] == ["harmful", "evasive"]
    plt.close(figure)
