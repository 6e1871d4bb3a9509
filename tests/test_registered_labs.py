"""Registered statements of papers on worlds whose truth is planted: what was put in comes out."""

import numpy as np
import pandas as pd
import pytest

from vd.data.probes import load_probes
from vd.findings import student
from vd.findings.papers import planted_bias
from vd.findings.verdicts import evaluate
from vd.study.load import Study
from vd.values import NAMES

STEPS = (0, 4, 24)
YES = "log-odds"  # of every probe, whatever its polarity: acquiescence
ROBUST = {name: f"sft/{name}" for name in ("dpo", "dpo_half", "kldpo", "wdpo", "drdpo")}
LAB = {"dpo": "sft/dpo", "ppo": "sft/ppo"}
VISA = {name: f"rewriter/{name}" for name in ("grpo", "dpo", "simpo")}
CONSTITUTION = {"sl": "sft/sl", "sl_one": "sft/one", "human": "sft/human"}
CONSTITUTION |= {"rl": "sft/sl/rl", "rl_dpo": "sft/sl/dpo"}
RLAIF = {name: f"sft/{name}" for name in ("rlhf", "rlaif", "direct")}
BIAS = {name: f"sft/{name.replace('_', '-')}" for name in planted_bias.Roles.model_fields}
VISA |= {name: name for name in ("rewriter", "asked", "unasked", "tuned", "tuned_dpo")}


def study(paper, roles, seeds):
    return Study(
        name="planted",
        seeds=list(range(seeds)),
        models={"m": {"source": "random:llama"}},
        sft={"support": {}},
        findings={paper: roles},
        probing={"per_topic": 1},
        bootstrap={"resamples": 50},
    )


def verdicts(paper, roles, ends, rng, nats=4.0, seeds=5, sd=0.01):
    """Verdicts where evaluations lead from their start to `ends`: role, (evaluation, metric) to
    (start, end), `YES` to the drift of its log-odds; KL grows as the square of what is done.
    """
    planted = study(paper, roles, seeds)
    probes = load_probes(planted.probing)
    ids = probes[["prompt_id", "topic"]]
    measured, logits, stances = [], [], []
    for role, values in ends.items():
        for seed in range(seeds):
            run = f"m/{roles[role]}/seed-{seed}"
            shift = {key: rng.normal(0, sd) for key in values}
            for step in STEPS:
                done = step / STEPS[-1]
                measured.append((run, step, "kl", "kl", nats * done**2, 60))
                measured += [
                    (run, step, *key, start + done * (end - start + shift[key]), 60)
                    for key, (start, end) in values.items()
                    if key != YES
                ]
                row = {
                    "log_odds": done * values.get(YES, (0, 0))[1],
                    "share_yes": 0.2,
                    "share_no": 0.2,
                }
                logits.append(ids.assign(run=run, step=step, **row))
                said = {"p_support": 0.4, "p_neutral": 0.3, "p_oppose": 0.3, "sample": 0}
                stances.append(ids.assign(run=run, step=step, **said))
    columns = ["run", "step", "evaluation", "metric", "value", "n"]
    pairs = pd.DataFrame(columns=["dataset", "prompt_id", "topic", "side", *list(said)[:3]])
    tables = pd.concat(stances), pairs, pd.concat(logits)
    table, _ = evaluate(planted, *tables, pd.DataFrame(measured, columns=columns))
    return table.set_index("finding")["verdict"].to_dict()


def served(stance, style, margin=None):
    """Accuracies and margins at the end; margins as far from 0 as accuracies from one half."""
    found = {}
    for group, accuracy in (("stance", stance), ("style", style)):
        found["preference", f"accuracy {group}"] = (0.5, accuracy)
        grown = 5 * (accuracy - 0.5) if margin is None else margin
        found["preference", f"margin {group}"] = (0.0, grown)
    return found


def test_robust_losses_that_keep_their_promise():
    found = verdicts(
        "robust-dpo",
        ROBUST,
        {
            "dpo": served(0.80, 0.65),
            "dpo_half": served(0.75, 0.63),
            "kldpo": served(0.80, 0.72),
            "wdpo": served(0.80, 0.79),
            "drdpo": served(0.82, 0.57),
        },
        np.random.default_rng(0),
    )
    assert set(found.values()) == {"holds"} and len(found) == 11


def test_robust_losses_that_only_learn_less():
    ends = dict.fromkeys(("dpo_half", "kldpo", "wdpo"), served(0.60, 0.58))
    ends |= {"dpo": served(0.80, 0.70), "drdpo": served(0.80, 0.70)}
    found = verdicts("robust-dpo", ROBUST, ends, np.random.default_rng(1))
    assert found["dpo_learns"] == "holds"
    lost = ("serves_the_worst", "costs_nothing", "at_equal_kl")
    assert {found[f"kldpo_{key}"] for key in lost} == {"does not hold"}
    same = ("kldpo_is_more_than_a_rate", "wdpo_above_kldpo", "dpo_above_drdpo")
    assert {found[key] for key in same} == {"practically equal"}


def test_seeds_that_agree_to_the_last_digit_are_no_proof():
    """Three seeds with one difference of 1 in 60 pairs say little of another seed."""
    row = student.over_seeds("one", student.SHARE, pd.Series([1 / 60] * 3), 0.05, 0.05, 60, 1 / 60)
    assert row["p_holds"] > 0.01 and row["lo"] > 0
    zero = student.over_seeds("none", student.SHARE, pd.Series([0.0] * 3), 0.05, 0.05, 60, 1 / 60)
    assert 1e-4 < zero["p_equal"] < 0.05


def of_lab(win, distance, refused, over_refused, harmful):
    return {
        ("quality", "length-controlled win rate"): (0.5, win),
        ("diversity", "distance"): (0.6, distance),
        ("safety", "refused"): (0.2, refused),
        ("safety", "over-refused"): (0.1, over_refused),
        ("safety", "harmful"): (0.5, harmful),
    }


def test_the_lab_as_a_course_tells_it():
    found = verdicts(
        "dpo-or-rlhf",
        LAB,
        {"dpo": of_lab(0.70, 0.58, 0.3, 0.1, 0.3), "ppo": of_lab(0.70, 0.40, 0.5, 0.1, 0.2)},
        np.random.default_rng(0),
    )
    assert found == {
        "both_help": "holds",
        "dpo_helps_more": "practically equal",
        "dpo_keeps_diversity": "holds",
        "ppo_more_conservative": "holds",
        "ppo_refuses_needlessly": "practically equal",
        "both_do_less_harm": "holds",
    }


def test_the_lab_where_it_all_goes_the_other_way():
    found = verdicts(
        "dpo-or-rlhf",
        LAB,
        {"dpo": of_lab(0.40, 0.35, 0.6, 0.4, 0.7), "ppo": of_lab(0.60, 0.55, 0.3, 0.4, 0.6)},
        np.random.default_rng(0),
    )
    assert found.pop("ppo_refuses_needlessly") == "holds"
    assert set(found.values()) == {"does not hold"}


@pytest.mark.parametrize("nats", [0.1, 4.0])
def test_without_a_common_kl_there_is_no_verdict_at_equal_kl(nats):
    ends = dict.fromkeys(ROBUST, served(0.8, 0.6)) | {"kldpo": served(0.8, 0.75)}
    found = verdicts("robust-dpo", ROBUST, ends, np.random.default_rng(2), nats=nats)
    wanted = "undecided at this size" if nats < 1 else "holds"
    assert found["kldpo_at_equal_kl"] == wanted
    assert found["kldpo_serves_the_worst"] == "holds"
    # a claim of two parts is undecided where one could not be tested
    ends = {"dpo": of_lab(0.7, 0.58, 0.3, 0.1, 0.3), "ppo": of_lab(0.7, 0.40, 0.5, 0.1, 0.2)}
    found = verdicts("dpo-or-rlhf", LAB, ends, np.random.default_rng(0), nats=nats)
    assert found["dpo_keeps_diversity"] == wanted


def test_a_run_that_ends_in_silence_has_no_end():
    ends = {"dpo": of_lab(0.7, np.nan, 0.3, 0.1, 0.3), "ppo": of_lab(0.7, 0.40, 0.5, 0.1, 0.2)}
    found = verdicts("dpo-or-rlhf", LAB, ends, np.random.default_rng(0))
    assert found["dpo_keeps_diversity"] == "undecided at this size"


def rewriter(jsr, consistency, far, cosine=0.5, rewarded=0.5):
    """Of a rewriter at the end; its start is a warm start with one success in five."""
    found = {("rewriting", "JSR"): (0.2, jsr), ("rewriting", "L2"): (0.9, far)}
    found["rewriting", "consistency"] = (0.6, consistency)
    found["rewriting", "cosine"] = (0.4, cosine)
    return found | {("rewriting", "cosine (reward)"): (0.4, rewarded)}


def tuned(ordered, elsewhere, right):
    """A model that moves the ordered value, two others by as much each, and its right answers."""
    moved = {("values", name): (0.0, 0.0) for name in NAMES}
    moved |= {("values", name): (0.1, 0.1 + elsewhere) for name in ("power", "tradition")}
    return moved | {("values", "benevolence"): (0.1, 0.1 + ordered), ("quality", "answered"): right}


def test_visa_as_the_paper_tells_it():
    found = verdicts(
        "visa",
        VISA,
        {
            "rewriter": rewriter(0.2, 0.7, 0.9),
            "grpo": rewriter(0.6, 0.8, 0.6, cosine=0.6, rewarded=0.9),
            "dpo": rewriter(0.3, 0.6, 0.8),
            "simpo": rewriter(0.3, 0.6, 0.8),
            "asked": tuned(0.4, 0.02, (0.6, 0.6)),
            "unasked": tuned(0.0, 0.02, (0.6, 0.6)),
            # moves further, and half as far as `asked` per unit of the ordered value at its end
            "tuned": tuned(0.8, 0.5, (0.6, 0.3)),
            "tuned_dpo": tuned(0.8, 0.6, (0.6, 0.5)),
        },
        np.random.default_rng(0),
    )
    stances = found.pop("less_stance_drift")  # no stance moves anywhere here
    assert stances == "practically equal" and set(found.values()) == {"holds"} and len(found) == 11


def test_visa_where_tuning_does_as_well():
    ends = {
        "rewriter": rewriter(0.2, 0.3, 0.9),
        "asked": tuned(0.2, 0.3, (0.6, 0.3)),
        "unasked": tuned(0.2, 0.3, (0.6, 0.6)),
        "tuned": tuned(0.8, 0.1, (0.6, 0.7)),
        "tuned_dpo": tuned(0.8, 0.1, (0.6, 0.7)),
    }
    ends |= dict.fromkeys(("grpo", "dpo", "simpo"), rewriter(0.2, 0.6, 0.9))
    found = verdicts("visa", VISA, ends, np.random.default_rng(1))
    lost = ("rewrites_at_all", "less_value_drift", "no_tax", "tuning_pays")
    assert {found.pop(key) for key in lost} == {"does not hold"}
    assert set(found.values()) == {"practically equal"}


def test_visa_where_the_order_moves_nothing_compares_no_drift():
    ends = dict.fromkeys(("asked", "unasked"), tuned(-0.2, 0.0, (0.6, 0.6)))
    ends |= dict.fromkeys(("tuned", "tuned_dpo"), tuned(0.8, 0.1, (0.6, 0.6)))
    ends |= dict.fromkeys(("rewriter", "grpo", "dpo", "simpo"), rewriter(0.2, 0.6, 0.9))
    found = verdicts("visa", VISA, ends, np.random.default_rng(0))
    assert found["less_value_drift"] == found["less_stance_drift"] == "undecided at this size"


def kept_safe(harmful, over_refused=0.1, win=0.5, evasive=0.1, yes=0.0):
    """Of a run from a start that is harmful half of the time."""
    return {
        ("safety", "harmful"): (0.5, harmful),
        ("safety", "over-refused"): (0.1, over_refused),
        ("safety", "evasive"): (0.1, evasive),
        ("quality", "length-controlled win rate"): (0.5, win),
        YES: (0.0, yes),
    }


def test_a_constitution_as_the_paper_tells_it():
    ends = {
        "sl": kept_safe(0.3, yes=-2.0),
        "sl_one": kept_safe(0.3),
        "human": kept_safe(0.45),
        "rl": kept_safe(0.1),
        "rl_dpo": kept_safe(0.2),
    }
    found = verdicts("constitutional-ai", CONSTITUTION, ends, np.random.default_rng(0))
    same = {"sl_refuses_needlessly", "rl_refuses_needlessly", "sl_evades", "rl_evades"}
    same |= {"one_principle_is_worse"}
    assert {key for key, verdict in found.items() if verdict == "practically equal"} == same
    assert {verdict for key, verdict in found.items() if key not in same} == {"holds"}


def test_a_constitution_that_makes_a_model_useless():
    ends = dict.fromkeys(CONSTITUTION, kept_safe(0.7, 0.6, win=0.2, evasive=0.6, yes=2.0))
    ends |= {"human": kept_safe(0.4), "sl_one": kept_safe(0.4)}
    found = verdicts("constitutional-ai", CONSTITUTION, ends, np.random.default_rng(1))
    worse = ("sl_refuses_needlessly", "rl_refuses_needlessly", "sl_evades", "rl_evades")
    assert {found.pop(key) for key in worse} == {"holds"}
    assert set(found.values()) == {"does not hold"} and len(found) == 6


def labelled(win, harmful, distance, yes):
    return {
        ("quality", "length-controlled win rate"): (0.5, win),
        ("safety", "harmful"): (0.5, harmful),
        ("diversity", "distance"): (0.6, distance),
        YES: (0.0, yes),
    }


def test_labels_of_a_model_as_good_as_peoples():
    ends = {
        "rlhf": labelled(0.65, 0.4, 0.4, 0.0),
        "rlaif": labelled(0.65, 0.2, 0.4, 0.0),
        "direct": labelled(0.80, 0.2, 0.5, 0.0),
    }
    found = verdicts("rlaif", RLAIF, ends, np.random.default_rng(0))
    same = {key for key, verdict in found.items() if verdict == "practically equal"}
    assert same == {"ai_labels_help_more", "ai_labels_drift_more"}
    assert {verdict for key, verdict in found.items() if key not in same} == {"holds"}


def test_labels_of_a_model_that_spoil():
    ends = {
        "rlhf": labelled(0.65, 0.2, 0.4, 2.0),
        "rlaif": labelled(0.40, 0.4, 0.4, 0.0),
        "direct": labelled(0.20, 0.4, 0.2, 0.0),
    }
    found = verdicts("rlaif", RLAIF, ends, np.random.default_rng(1))
    assert set(found.values()) == {"does not hold"} and len(found) == 6


def biased(amplification, scale=1.0):
    """Shares of policies whose bias is that many times their labels', as far as there is room."""
    found = {}
    for role in BIAS:
        _, bias, strength = role.split("_")
        label = scale * planted_bias.STRENGTHS[strength] / 2
        share = 0.5 + min(amplification * label, 0.5)
        found[role] = {("preference", f"accuracy {one}"): (0.5, 0.5) for one in planted_bias.BIASES}
        found[role]["preference", f"accuracy {bias}"] = (0.5, share)
        found[role][YES] = (0.0, 4 * (share - 0.5) if bias == "labelled" else 0.0)
    return found


def test_a_bias_that_training_doubles():
    found = verdicts("planted-bias", BIAS, biased(2.0), np.random.default_rng(0), sd=0.005)
    same = {f"dpo_above_ppo_{bias}" for bias in planted_bias.BIASES}
    assert {found.pop(key) for key in same} == {"practically equal"}
    assert set(found.values()) == {"holds"} and len(found) == 11


def test_a_bias_that_training_keeps_or_loses():
    found = verdicts("planted-bias", BIAS, biased(1.0), np.random.default_rng(1), sd=0.005)
    amplifies = {f"{m}_amplifies_{bias}" for m in ("dpo", "ppo") for bias in planted_bias.BIASES}
    assert {found[key] for key in amplifies} == {"practically equal"}
    assert {found[f"dpo_learns_{bias}"] for bias in planted_bias.BIASES} == {"holds"}
    found = verdicts("planted-bias", BIAS, biased(0.2), np.random.default_rng(2), sd=0.005)
    assert {found[f"ppo_amplifies_{bias}"] for bias in planted_bias.BIASES} == {"does not hold"}
