"""What moves in post-training: our own statements, registered before the study `pocket-kl` was run.

Value Drifts compares data and algorithms at equal steps, where the learning rate, the loss' scale
and a reward model decide how far a run gets. Here runs are compared where they have gone equally
far from their start, in nats (vd/drift/traces.py), and what they say is split into agreeing with
the question and leaning to a side of the topic. Where the paper says which way a difference goes,
so do we; what a one-seed pilot (commit dc9a675) led us to expect stands beside.

Margins are the smallest differences of interest. Numbers of seeds: 5, and 3 where an entry of the
study says so. There is one look, when all of them are trained; a run that breaks is trained again
from the same seed, and no seed is left out or added.
"""

from functools import partial
from typing import TYPE_CHECKING

from vd.findings import student
from vd.findings.finding import Finding
from vd.findings.papers.value_drifts import FINDINGS as PAPER
from vd.findings.papers.value_drifts import PPO
from vd.study.roles import role
from vd.study.types import Settings

if TYPE_CHECKING:
    from vd.findings.contrasts import Evidence

TITLE = "What moves: values or agreeing, data or algorithms (registered with pocket-kl)"


class Roles(Settings):
    """Which run plays which part; findings without their runs are left out."""

    sft_neutral: str | None = role("sft")  # on replies that take no side
    sft_support: str | None = role("sft")  # on replies that take the question's side
    # from an SFT run on replies that affirm as often as they reject, all of them
    dpo: str | None = role("run", method="dpo")  # on pairs whose chosen reply affirms
    dpo_oppose: str | None = role("run", method="dpo")  # on pairs whose chosen reply rejects
    simpo: str | None = role("run", method="simpo")  # as dpo
    ppo: str | None = role("run", method=PPO)  # as dpo
    ppo_large_kl: str | None = role("run", method=PPO)  # as ppo, with a large KL weight
    low_gap: str | None = role("run", method="dpo")  # on pairs of one stance
    # on pairs whose chosen reply supports the topic's proposition, be it by Yes or by No
    crossed: str | None = role("run", method="dpo")
    crossed_base: str | None = role("run", method="dpo")  # the same from the model as it came
    low_gap_data: str | None = role("data")
    value_gap_data: str | None = role("data")


COMPARED = (
    ("sft_neutral", "sft_support"),
    ("dpo", "dpo_oppose"),
    ("dpo", "low_gap"),
    ("ppo", "ppo_large_kl"),
    ("low_gap_data", "value_gap_data"),
)

LOGITS = 0.5  # margin between drifts of acquiescence, log-odds of Yes against No in nats
LEAN = 0.2  # margin of lean, in the same nats
SLOPE = 0.05  # margin of amplification, nats of drift per nat of log-odds
SHARE = 0.05  # margin between stance shares of KL


def _apart(e: "Evidence", one: str, other: str, size: bool = False) -> list[dict]:
    """That `one` drifts further upwards than `other`, or than its size, at equal KL and at the end.

    A size is of the mean over seeds, held fixed: which way low-gap pairs lead, nobody says.
    """
    t, words = e.traces, f"{one} above {other}"
    ends = t.end(one) - _upright(t.end(other), size)
    return [
        _at_equal_kl(e, words, one, other, t.drift, LOGITS, size),
        e.over_seeds(f"{words} at the end", ends, LOGITS),
    ]


def _at_equal_kl(
    e: "Evidence", words, one, other, values, margin, size=False, unit=student.ODDS
) -> dict:
    """That `values` of `one` are above those of `other`, at the largest KL that both reach."""
    turned = partial(_upright, size=size)
    return e.at_equal_kl(words, one, other, values, margin, unit, turned=turned)


def _upright(scores, size: bool):
    return scores * (-1 if size and scores.mean() < 0 else 1)


def _share(e: "Evidence", one: str, other: str) -> list[dict]:
    words = f"stance share of {one} above {other}"
    return [_at_equal_kl(e, words, one, other, e.traces.share, SHARE, unit="share of KL")]


def _lean(e: "Evidence", role: str) -> list[dict]:
    return [e.over_seeds(f"lean of {role} above 0", e.traces.end(role, "lean"), LEAN)]


_OF_PAPER = {finding.key: finding for finding in PAPER}

FINDINGS = [
    Finding(
        "sft_early",
        "SFT on replies that affirm does half of its drift, judged and in log-odds, in less than "
        "half of its steps",
        ("sft_support",),
        lambda e: [
            e.test_early("judged support", "sft_support", "support"),
            e.over_seeds(
                "log-odds of Yes", 0.5 - e.traces.half_time("sft_support"), unit=student.STEPS
            ),
        ],
        "early (confirmed). Pilot: half at step 30 of 83",
    ),
    _OF_PAPER["data_set_profile"],
    Finding(
        "sft_above_low_gap",
        "SFT on replies that affirm moves agreeing further than low-gap pairs do, at equal KL and "
        "at the end",
        ("sft_support", "low_gap"),
        lambda e: _apart(e, "sft_support", "low_gap", size=True),
        "preference optimisation rarely re-aligns values (confirmed). Pilot: 1.64 against 0.47",
    ),
    _OF_PAPER["value_gaps"],
    Finding(
        "gap_above_low_gap",
        "With the same prompts, start, algorithm and steps, value-gap pairs move agreeing further "
        "than low-gap pairs do, at equal KL and at the end",
        ("dpo", "low_gap"),
        lambda e: _apart(e, "dpo", "low_gap", size=True),
        "a value gap in the pairs is what moves values (confirmed). Pilot: +1.28 against -0.24 at "
        "1.3 nats",
    ),
    Finding(
        "dpo_above_simpo",
        "DPO moves agreeing further than SimPO, at equal KL and at the end",
        ("dpo", "simpo"),
        lambda e: _apart(e, "dpo", "simpo"),
        "DPO 0.53, SimPO 0.15 (second-hand). Pilot: equal",
    ),
    Finding(
        "simpo_above_ppo",
        "SimPO moves agreeing further than PPO, at equal KL and at the end",
        ("simpo", "ppo"),
        lambda e: _apart(e, "simpo", "ppo"),
        "SimPO 0.15, PPO 0.0 (second-hand). Pilot: further, with a weak reward model",
    ),
    Finding(
        "amplifies",
        "DPO moves a prompt further towards the answer that the start already favours there, "
        "whichever answer the pairs choose",
        ("dpo", "dpo_oppose"),
        lambda e: [
            e.over_seeds(f"slope of {role}", e.traces.slope(role), SLOPE, "nats per nat")
            for role in ("dpo", "dpo_oppose")
        ],
        "DPO amplifies what SFT left (second-hand). Pilot: slope +0.30 with support-aligned pairs",
    ),
    Finding(
        "kl_anchors",
        "PPO with a KL weight of 0.05 moves agreeing further than with 2",
        ("ppo", "ppo_large_kl"),
        lambda e: [
            e.over_seeds(
                "ppo above ppo_large_kl at the end",
                e.traces.end("ppo") - e.traces.end("ppo_large_kl"),
                LOGITS,
            )
        ],
        "a larger KL weight gives less drift (second-hand, one note)",
    ),
    Finding(
        "lean_moves",
        "Pairs whose chosen reply supports the topic's proposition move lean towards it",
        ("crossed",),
        lambda e: _lean(e, "crossed"),
        "not in the paper. Pilot: -0.006 on pairs learnt by heart",
    ),
    Finding(
        "lean_moves_base",
        "So they do from the model as it came",
        ("crossed_base",),
        lambda e: _lean(e, "crossed_base"),
        "not in the paper",
    ),
    Finding(
        "share_by_data",
        "Of what value-gap pairs change, a larger share is seen as stance than of what low-gap "
        "pairs change",
        ("dpo", "low_gap"),
        lambda e: _share(e, "dpo", "low_gap"),
        "not in the paper. Pilot: 0.32 against 0.002",
    ),
    Finding(
        "share_by_algorithm",
        "DPO spends a larger share of its change on stance than PPO",
        ("dpo", "ppo"),
        lambda e: _share(e, "dpo", "ppo"),
        "not in the paper. Pilot: 0.32 against 0.18, at unequal KL",
    ),
]
