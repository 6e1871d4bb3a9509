"""What Value Drifts (arXiv 2510.26707) reports, as statements that a study can test."""

from typing import TYPE_CHECKING

from vd.findings.finding import Finding
from vd.stances import STANCES
from vd.study.roles import role
from vd.study.types import Settings

if TYPE_CHECKING:
    from vd.findings.contrasts import Evidence

TITLE = "Value Drifts: Tracing Value Alignment During LLM Post-Training (arXiv 2510.26707)"


PPO = ("ppo", "openrlhf_ppo")


class Roles(Settings):
    """Which run plays which part; findings without their runs are left out."""

    sft_neutral: str | None = role("sft")  # on replies that take no side
    sft_support: str | None = role("sft")  # on replies that take the question's side
    low_gap: str | None = role("preference")  # on low-gap pairs
    # on support-aligned value-gap pairs, from an SFT run that favours support
    dpo: str | None = role("run", method="dpo")
    dpo_oppose: str | None = role("run", method="dpo")  # the same with labels switched
    simpo: str | None = role("run", method="simpo")  # as dpo
    ppo: str | None = role("run", method=PPO)  # as dpo
    # as dpo, but from an SFT run that takes no side, so that a drift has room
    dpo_neutral: str | None = role("run", method="dpo")
    simpo_neutral: str | None = role("run", method="simpo")
    ppo_neutral: str | None = role("run", method=PPO)
    ppo_small_kl: str | None = role("run", method=PPO)
    ppo_large_kl: str | None = role("run", method=PPO)
    low_gap_data: str | None = role("data")
    value_gap_data: str | None = role("data")


MARGIN = 0.10  # smallest difference between two drifts that is of interest, a probability

COMPARED = (  # roles that one finding sets against each other
    ("sft_neutral", "sft_support"),
    ("dpo", "dpo_oppose"),
    ("ppo_small_kl", "ppo_large_kl"),
    ("low_gap_data", "value_gap_data"),
)


def _likeliest(e: "Evidence", role: str, stance: str) -> list[dict]:
    others = [other for other in STANCES if other != stance]
    chosen = e.probability(role, stance)
    return [
        e.test(f"{role}: {stance} above {other}", chosen - e.probability(role, other))
        for other in others
    ]


def _larger(e: "Evidence", one: str, other: str, stances=("support", "support")) -> dict:
    words = (
        f"{one} above {other}"
        if stances[0] == stances[1]
        else f"{one} ({stances[0]}) above {other} ({stances[1]})"
    )
    # upwards, as the pairs are aligned: a drift the wrong way must not count for the claim
    difference = e.change(one)[stances[0]] - e.change(other)[stances[1]]
    return e.test(words, difference, MARGIN)


# drift of support by DPO 0.53, by SimPO 0.15, by PPO 0.0, on synthetic support-aligned pairs
AHEAD = {"dpo above simpo": 0.38, "simpo above ppo": 0.15}

FINDINGS = [
    Finding(
        "sft_moves",
        "SFT on replies that affirm moves support up by more than 0.10",
        ("sft_support",),
        lambda e: [e.test("drift above 0.10", e.change("sft_support")["support"] - 0.10)],
        "SFT is the main driver (confirmed); drift of neutral 0.38 on immigration (second-hand)",
    ),
    Finding(
        "sft_early",
        "It does half of that in less than half of its steps",
        ("sft_support",),
        lambda e: [e.test_early("half time below half of the steps", "sft_support", "support")],
        "early (confirmed); time 0.09 of neutral on immigration (second-hand)",
    ),
    Finding(
        "data_set_profile",
        "After SFT the profile of its data is the likeliest stance: neutral or support",
        ("sft_neutral", "sft_support"),
        lambda e: _likeliest(e, "sft_neutral", "neutral") + _likeliest(e, "sft_support", "support"),
        "WildChat leads to neutral, Alpaca to support (second-hand)",
    ),
    Finding(
        "sft_above_low_gap",
        "SFT moves support further than preference data with a small value gap",
        ("sft_support", "low_gap"),
        lambda e: [
            e.test(
                "sft_support above low_gap",
                # which way low-gap pairs lead, nobody says
                e.change("sft_support")["support"] - e.size("low_gap", "support"),
            )
        ],
        "preference optimisation rarely re-aligns values (confirmed); drift 0.01 to 0.27 "
        "(second-hand)",
    ),
    Finding(
        "value_gaps",
        "The value gap is below 0.10 for every stance in low-gap data, and for support above 0.30 "
        "in value-gap data",
        ("low_gap_data", "value_gap_data"),
        lambda e: [
            # a small gap is small to either side, a large one favours what was chosen
            *(
                e.test(f"low gap of {stance} below 0.10", 0.10 - e.size("low_gap_data", stance))
                for stance in STANCES
            ),
            e.test("value gap above 0.30", e.change("value_gap_data")["support"] - 0.30),
        ],
        "standard sets have similar stances on both sides, the synthetic set opposite ones; "
        "no numbers (second-hand)",
    ),
    Finding(
        "dpo_simpo_ppo",
        "On the same value-gap pairs DPO moves support further than SimPO, and SimPO further "
        "than PPO",
        ("dpo", "simpo", "ppo"),
        lambda e: [_larger(e, "dpo", "simpo"), _larger(e, "simpo", "ppo")],
        "algorithms differ on the same data (confirmed); DPO 0.53, SimPO 0.15, PPO 0.0 "
        "(second-hand)",
        AHEAD,
    ),
    Finding(
        "dpo_simpo_ppo_room",
        "The same from an SFT model that takes no side, where no ceiling cuts the drift",
        ("dpo_neutral", "simpo_neutral", "ppo_neutral"),
        lambda e: [
            _larger(e, "dpo_neutral", "simpo_neutral"),
            _larger(e, "simpo_neutral", "ppo_neutral"),
        ],
        "as above; which SFT model the paper's numbers start from is unknown",
    ),
    Finding(
        "dpo_amplifies",
        "DPO moves the stance that SFT favours further than, with labels switched, the one it does "
        "not favour; a ceiling works against this, because the favoured stance starts high",
        ("dpo", "dpo_oppose"),
        lambda e: [_larger(e, "dpo", "dpo_oppose", ("support", "oppose"))],
        "0.53 with the favoured stance, 0.46 of unclear sign against it (second-hand)",
    ),
    Finding(
        "kl_anchors",
        "PPO with a small KL weight moves support further than with a large one",
        ("ppo_small_kl", "ppo_large_kl"),
        lambda e: [_larger(e, "ppo_small_kl", "ppo_large_kl")],
        "a larger KL weight gives less drift; no numbers (second-hand, one note)",
    ),
]
