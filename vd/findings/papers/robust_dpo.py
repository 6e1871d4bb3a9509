"""What robust DPO (Xu et al. 2025, arXiv 2502.01930) promises, as statements of a study in which
two kinds of people chose: four in five pairs are of those who look at what is said, and prefer the
reply that affirms; one in five of those who look at how it is said, and prefer the better written
reply of one stance.

The two do not contradict each other, so a policy could serve both. Had the second kind preferred
what the first rejects, its accuracy would be one minus the first's, and to learn less would be all
that a robust loss could do. Accuracy is that of the implicit reward on pairs that no run trains on
(vd/evaluations/metrics/preference.py); the worst group is the one that a policy serves worse, and a
shift may lead to as many of it as there are. Registered before any of it was trained.
"""

from typing import TYPE_CHECKING

from vd.findings import student
from vd.findings.finding import Finding
from vd.study.roles import role
from vd.study.types import Settings

if TYPE_CHECKING:
    from vd.findings.contrasts import Evidence

TITLE = "Robust DPO: WDPO and KLDPO under a shift of preferences (arXiv 2502.01930)"


class Roles(Settings):
    """Which run plays which part: from one SFT run, on one mix of pairs."""

    dpo: str | None = role("run", method="dpo")
    dpo_half: str | None = role("run", method="dpo")  # with half the learning rate
    kldpo: str | None = role("run", method="kldpo")
    wdpo: str | None = role("run", method="wdpo")
    drdpo: str | None = role("run", method="drdpo")


COMPARED = (("dpo", "dpo_half"),)
GROUPS = {"stance": 0.8, "style": 0.2}  # what the pairs are a mix of, as the study calls them
MARGIN = 0.05  # smallest difference of interest between two accuracies
NATS = 0.2  # and between two margins of the implicit reward


def _measured(e: "Evidence", role: str, measure: str) -> dict:
    return {g: e.traces.measured(role, "preference", f"{measure} {g}") for g in GROUPS}


def _worst(e: "Evidence", role: str, measure: str = "accuracy"):
    """The measure of the group that is served worse: seeds x judged steps."""
    one, other = _measured(e, role, measure).values()
    return one.where(one <= other, other)


def _mixed(e: "Evidence", role: str):
    """Accuracy among people as they are in training: seeds x judged steps."""
    found = _measured(e, role, "accuracy")
    return sum(share * found[group] for group, share in GROUPS.items())


def _pairs(e: "Evidence", role: str) -> int:
    return min(e.traces.units(role, "preference", f"accuracy {group}") for group in GROUPS)


def _above(e: "Evidence", one: str, other: str) -> list[dict]:
    """That `one` serves the worse-off group better than `other`, at the end."""
    ahead = _worst(e, one).iloc[:, -1] - _worst(e, other).iloc[:, -1]
    words = f"{one} above {other}: worst group"
    return [e.over_seeds(words, ahead, MARGIN, student.SHARE, _pairs(e, one))]


def _no_worse(e: "Evidence", one: str, other: str) -> list[dict]:
    """That `one` is at most MARGIN less accurate than `other` without a shift."""
    ahead = _mixed(e, one).iloc[:, -1] - _mixed(e, other).iloc[:, -1] + MARGIN
    words = f"{one} above {other} less {MARGIN:g}: people as in training"
    return [e.over_seeds(words, ahead, None, student.SHARE, _pairs(e, one))]


def _above_at_equal_kl(e: "Evidence", one: str, other: str) -> list[dict]:
    """That at the largest KL that both reach the worse-off group's margin is larger.

    The margin grows from 0 as a policy moves; an accuracy jumps at the first step.
    """
    words = f"{one} above {other}: margin of the worst group"
    given = words, one, other, lambda role: _worst(e, role, "margin"), NATS, "nats"
    return [e.at_equal_kl(*given, _pairs(e, one))]


def _learnt(e: "Evidence") -> list[dict]:
    ends = {g: t.iloc[:, -1] - 0.5 for g, t in _measured(e, "dpo", "accuracy").items()}
    return [
        e.over_seeds(f"dpo above 0.5: {group}", ahead, MARGIN, student.SHARE, _pairs(e, "dpo"))
        for group, ahead in ends.items()
    ]


ROBUST = ("kldpo", "wdpo")
FINDINGS = [
    Finding(
        "dpo_learns",
        "DPO learns what either kind of people wants: its accuracy is above one half for both",
        ("dpo",),
        _learnt,
        "without it, nothing here says anything",
    ),
    *(
        Finding(
            f"{method}_serves_the_worst",
            f"{method.upper()} serves the worse-off group better than DPO",
            ("dpo", method),
            lambda e, method=method: _above(e, method, "dpo"),
            "better under a shift (confirmed, on other measures)",
        )
        for method in ROBUST
    ),
    *(
        Finding(
            f"{method}_costs_nothing",
            f"Where people are as in training {method.upper()} is no worse than DPO, by {MARGIN:g}",
            ("dpo", method),
            lambda e, method=method: _no_worse(e, method, "dpo"),
            "not worse without a shift (second-hand)",
        )
        for method in ROBUST
    ),
    Finding(
        "wdpo_above_kldpo",
        "WDPO serves the worse-off group better than KLDPO",
        ROBUST,
        lambda e: _above(e, "wdpo", "kldpo"),
        "order WDPO, KLDPO, DPO on five objectives (a figure of the authors)",
    ),
    *(
        Finding(
            f"{method}_is_more_than_a_rate",
            f"{method.upper()} serves the worse-off group better than DPO with half the rate",
            ("dpo_half", method),
            lambda e, method=method: _above(e, method, "dpo_half"),
            "not in the paper",
        )
        for method in ROBUST
    ),
    *(
        Finding(
            f"{method}_at_equal_kl",
            f"{method.upper()} serves the worse-off group better than DPO where both have gone "
            "equally far",
            ("dpo", method),
            lambda e, method=method: _above_at_equal_kl(e, method, "dpo"),
            "not in the paper",
        )
        for method in ROBUST
    ),
    Finding(
        "dpo_above_drdpo",
        "DPO serves the worse-off group better than Dr. DPO, which takes hard pairs for wrong "
        "labels",
        ("dpo", "drdpo"),
        lambda e: _above(e, "dpo", "drdpo"),
        "the opposite weights (arXiv 2407.07880)",
    ),
]
