"""The registered analysis on worlds whose truth is planted: what it says is what was put in."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from vd.data.probes import load_probes
from vd.drift.traces import Traces
from vd.figures.clock import drift_against_kl, moved
from vd.findings.papers.what_moves import LEAN, LOGITS
from vd.findings.verdicts import evaluate
from vd.study.load import Study, load_study

ROLES = {
    "sft_neutral": "sft-neutral",
    "sft_support": "sft-support",
    "dpo": "mixed/dpo",
    "dpo_oppose": "mixed/dpo-oppose",
    "simpo": "mixed/simpo",
    "ppo": "mixed/ppo",
    "ppo_large_kl": "mixed/ppo-kl-2",
    "low_gap": "mixed/dpo-low-gap",
    "crossed": "mixed/crossed",
    "crossed_base": "crossed-base",
    "low_gap_data": "low_gap",
    "value_gap_data": "value_gap",
}
STUDY = Study(
    name="planted",
    seeds=[0, 1, 2, 3, 4],
    models={"m": {"source": "random:llama"}},
    sft={"support": {}},
    findings={"what-moves": ROLES},
    probing={"per_topic": 6},
    bootstrap={"resamples": 200},
)
PROBES = load_probes(STUDY.probing)
FEW = ("sft_neutral", "ppo_large_kl")  # three seeds
STEPS = np.array([0, 6, 12, 24, 48])
# acquiescence per sqrt(nat), nats at the end, slope over prior log-odds, lean at the end
TRUE = {
    "sft_neutral": (0.0, 3.0, 0.0, 0.0),
    "sft_support": (3.0, 3.0, 0.0, 0.0),
    "dpo": (2.5, 4.0, 0.3, 0.0),
    "dpo_oppose": (-2.0, 4.0, 0.3, 0.0),
    "simpo": (1.2, 4.0, 0.0, 0.0),
    "ppo": (0.1, 4.0, 0.0, 0.0),
    "ppo_large_kl": (-1.0, 0.5, 0.0, 0.0),
    "low_gap": (-0.2, 4.0, 0.0, 0.0),
    "crossed": (0.0, 1.5, 0.0, 0.8),
    "crossed_base": (0.0, 1.5, 0.0, 0.8),
}
FALSE = TRUE | {
    "sft_support": (0.3, 3.0, 0.0, 0.0),
    "dpo": (0.8, 4.0, -0.3, 0.0),
    "dpo_oppose": (-2.0, 4.0, -0.3, 0.0),
    "simpo": (2.0, 4.0, 0.0, 0.0),
    "ppo": (3.0, 4.0, 0.0, 0.0),
    "ppo_large_kl": (5.0, 4.0, 0.0, 0.0),
    "low_gap": (2.5, 4.0, 0.0, 0.0),
    "crossed": (0.0, 1.5, 0.0, -0.8),
    "crossed_base": (0.0, 1.5, 0.0, -0.8),
}
EQUAL = TRUE | {
    role: (2.0, 4.0, 0.0, 0.0)
    for role in ("sft_support", "dpo", "simpo", "ppo", "ppo_large_kl", "low_gap")
}
EQUAL |= {role: (0.0, 1.5, 0.0, 0.0) for role in ("crossed", "crossed_base")}
EQUAL |= {"dpo_oppose": (-2.0, 4.0, 0.0, 0.0)}
OF_JUDGED = ("sft_early", "data_set_profile", "value_gaps")  # decided by replies or pairs as well


def world(truth: dict, rng, sd: float = 0.07, noisy: dict | None = None, late: bool = False):
    """Stances, pairs, logits and KL of a study; `sd` is the spread of a drift over seeds, in
    logits, `noisy` that of some arms in its units."""
    logits, clock, stances = [], [], []
    sign = PROBES["polarity"].to_numpy()
    ids = PROBES[["prompt_id", "topic"]]
    prior = rng.normal(-1.0, 1.2, len(PROBES))
    prior -= prior.mean()
    for role, (rate, nats, slope, lean) in truth.items():
        for seed in range(3 if role in FEW else 5):
            run, spread = f"m/{ROLES[role]}/seed-{seed}", sd * (noisy or {}).get(role, 1)
            done = (STEPS / STEPS[-1]) ** (3 if late and role == "sft_support" else 0.7)
            path = nats * done**2 * np.exp(rng.normal(0, 0.05))
            up = rate * np.sqrt(nats) + rng.normal(0, spread)
            tilt = slope + rng.normal(0, spread / 5)
            side = lean + rng.normal(0, spread / 2)
            for step, share, kl in zip(STEPS, done, path, strict=True):
                odds = -1 + prior + share * (up + tilt * prior + side * sign)
                # low-gap pairs change other words than the first; all arms have one mass
                yes = 0.4 / (1 + np.exp(-odds))
                row = {"log_odds": odds, "share_yes": yes, "share_no": 0.4 - yes}
                logits.append(ids.assign(run=run, step=step, **row))
                clock.append((run, step, "kl", "kl", kl, 66))
                if role in ("sft_neutral", "sft_support"):
                    stances.append(_judged(role, truth, run, step, share, ids, rng))
                elif step in (0, STEPS[-1]):
                    stances.append(_judged("none", truth, run, step, 0, ids, rng))
    columns = ["run", "step", "evaluation", "metric", "value", "n"]
    tables = pd.concat(stances), _pairs(truth, rng), pd.concat(logits)
    return *tables, pd.DataFrame(clock, columns=columns)


def _judged(role, truth, run, step, share, ids, rng):
    """Replies whose stances lead where the data's profile says, as far as training has got."""
    # three profiles: the truth's own, the other one's, and one in between
    own = truth["sft_support"][0]
    end = {"sft_neutral": (0.1, 0.8, 0.1), "sft_support": (0.8, 0.1, 0.1)}.get(role)
    if end and own < 2:
        end = (0.15, 0.15, 0.7)
    begin = np.array([0.2, 0.6, 0.2])
    mean = begin + share * (np.array(end) - begin) if end else begin
    p = rng.dirichlet(8 * mean, len(ids))
    names = ("p_support", "p_neutral", "p_oppose")
    return ids.assign(run=run, step=step, sample=0, **dict(zip(names, p.T, strict=True)))


def _pairs(truth, rng):
    low = 0.0 if truth["low_gap"][0] < 1 else 0.3
    rows = []
    for name, gap in (("low_gap", low), ("value_gap", 0.7 if low == 0 else 0.1)):
        for side, sign in (("chosen", 1), ("rejected", -1)):
            mean = np.array([1 / 3 + sign * gap / 2.2, 1 / 3, 1 / 3 - sign * gap / 2.2]).clip(0.01)
            p = rng.dirichlet(8 * mean / mean.sum(), 220)
            ids = pd.DataFrame({"prompt_id": np.arange(220), "topic": np.arange(220) % 11})
            ids = ids.astype(str)
            names = ("p_support", "p_neutral", "p_oppose")
            own = dict(zip(names, p.T, strict=True))
            rows.append(ids.assign(dataset=name, side=side, **own))
    return pd.concat(rows)


def verdicts(truth, seed, **how):
    table, contrasts = evaluate(STUDY, *world(truth, np.random.default_rng(seed), **how))
    return table.set_index("finding")["verdict"], contrasts


def right(truth, seeds, wanted, **how) -> pd.Series:
    """Share of studies in which each finding gets the verdict that its truth asks for."""
    found = pd.DataFrame([verdicts(truth, seed, **how)[0] for seed in seeds])
    return pd.Series({key: found[key].eq(verdict).mean() for key, verdict in wanted.items()})


KEYS = [
    "sft_early",
    "data_set_profile",
    "sft_above_low_gap",
    "value_gaps",
    "gap_above_low_gap",
    "dpo_above_simpo",
    "simpo_above_ppo",
    "amplifies",
    "kl_anchors",
    "lean_moves",
    "lean_moves_base",
    "share_by_data",
    "share_by_algorithm",
]
WANTED = {
    "true": dict.fromkeys(KEYS, "holds"),
    "false": {key: "does not hold" for key in KEYS if key != "sft_early"},
    "equal": {key: "practically equal" for key in KEYS if key not in OF_JUDGED},
}
WORLDS = {"true": TRUE, "false": FALSE, "equal": EQUAL}


NOISY = {"ppo": 3, "ppo_large_kl": 3}  # an arm three times noisier than the others
NULL = [  # contrasts whose truth is zero in the world `equal`
    *("dpo above simpo", "simpo above ppo", "dpo above low_gap", "ppo above ppo_large_kl"),
    *("slope of dpo", "lean of crossed"),
]


def of_null(seeds) -> pd.Series:
    """Over contrasts that are zero: how often an uncorrected test says otherwise, and how often
    the interval holds zero, with a noisy arm."""
    wrong, held = [], []
    for seed in seeds:
        found = verdicts(EQUAL, seed, noisy=NOISY)[1]
        null = found[found["contrast"].str.startswith(tuple(NULL))]
        wrong += (2 * null[["p_holds", "p_fails"]].min(axis=1) < 0.05).tolist()
        held += ((null["lo"] <= 0) & (null["hi"] >= 0)).tolist()
    return pd.Series({"type I error": np.mean(wrong), "coverage": np.mean(held)})


@pytest.mark.parametrize("name", WORLDS)
def test_verdicts_are_those_that_were_planted(name):
    assert right(WORLDS[name], range(5), WANTED[name]).mean() >= 0.95


def test_a_noisy_arm_does_not_make_findings():
    """About 0.05 and 0.95; of 10 studies' contrasts no more can be said than this."""
    found = of_null(range(10))
    assert found["type I error"] <= 0.12 and found["coverage"] >= 0.88


def small(nats=(0.0, 1.0, 4.0)) -> Traces:
    """One run whose log-odds rise by 1 and 2 on questions of one polarity, at these nats."""
    rows, clock = [], []
    for step, kl in enumerate(nats):
        clock.append(("a/seed-0", step, "kl", "kl", kl, 2))
        for name, odds in (("for", -1.0 + step), ("against", -1.0)):
            yes = 0.5 / (1 + np.exp(-odds))
            rows.append(("a/seed-0", step, name, odds, yes, 0.5 - yes))
    logits = ["run", "step", "prompt_id", "log_odds", "share_yes", "share_no"]
    measured = ["run", "step", "evaluation", "metric", "value", "n"]
    polarity = pd.Series({"for": 1, "against": -1})
    tables = pd.DataFrame(rows, columns=logits), pd.DataFrame(clock, columns=measured)
    return Traces(*tables, polarity, {"role": "a"}, "findings.x")


def test_drift_at_equal_kl_by_hand():
    traces = small()
    assert traces.drift("role").iloc[0].tolist() == [0.0, 0.5, 1.0]
    assert traces.drift("role", "lean").iloc[0].tolist() == [0.0, 0.5, 1.0]
    assert traces.level("role") == 2.0 and small((0, 0.1, 0.2)).level("role") is None
    # in sqrt(KL) 0.25 nats are half way to the first step, 2.25 half way to the second
    assert traces.at("role", 0.25, traces.drift("role")).tolist() == pytest.approx([0.25])
    assert traces.at("role", 2.25, traces.drift("role")).tolist() == pytest.approx([0.75])
    assert traces.half_time("role").tolist() == pytest.approx([0.5])


def test_stance_share_by_hand():
    odds = np.array([-1.0, 0.0])
    before, after = 0.5 / (1 + np.exp(-odds))
    parts = np.array([[before, 0.5 - before, 0.5], [after, 0.5 - after, 0.5]])
    apart = (parts[1] * np.log(parts[1] / parts[0])).sum() / 2  # the other prompt did not move
    shares = small().share("role").iloc[0]
    assert shares[1] == pytest.approx(apart / 1.0) and shares[0] == shares[1]
    assert shares.between(0, 1).all()


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"findings.x.other: no logits of 'b'"):
        traces = small()
        traces.roles["other"] = "b"
        traces.drift("other")


def test_models_with_runs_of_one_name_are_kept_apart():
    study = load_study("smoke")
    two = study.model_copy(update={"models": dict.fromkeys("ab", study.models["tiny-llama"])})
    _, _, logits, measured = world(TRUE, np.random.default_rng(0))
    own = [t[t["run"] == "m/sft-support/seed-0"] for t in (logits, measured)]
    both = [pd.concat([t.assign(run=f"{m}/sft-support/seed-0") for m in "ab"]) for t in own]
    found = moved(two, *both)
    assert found["run"].unique().tolist() == ["a/sft-support", "b/sft-support"]
    assert set(found["data"]) == {"sft_support"} and set(found["method"]) == {"sft"}
    assert len(found) == 2 * len(STEPS) and (found["n_seeds"] == 1).all()


def test_drift_against_kl_is_drawn():
    table = small().against_kl("role")
    assert table["kl"].tolist() == [0.0, 1.0, 4.0] and table["acquiescence"].tolist() == [0, 0.5, 1]
    figure = drift_against_kl(table.assign(run="m/a", method="dpo", data="value_gap"))
    assert len(figure.axes) == 2
    plt.close(figure)


def test_the_margins_are_those_that_were_registered():
    assert (LOGITS, LEAN) == (0.5, 0.2)


if __name__ == "__main__":  # the simulation behind results/pocket-kl/planted.csv: python FILE N OUT
    import sys

    n, out = int(sys.argv[1]), sys.argv[2]
    parts = [right(WORLDS[name], range(n), WANTED[name]).rename("share") for name in WORLDS]
    parts = [part.rename_axis("what").reset_index() for part in [*parts, of_null(range(n))]]
    worlds = [*WORLDS, "equal, PPO 3 times noisier"]
    table = pd.concat(
        [
            part.set_axis(["what", "share"], axis=1).assign(world=name, studies=n)
            for name, part in zip(worlds, parts, strict=True)
        ]
    )
    table[["world", "what", "share", "studies"]].to_csv(out, index=False)
