"""What robust DPO (Xu et al. 2025, arXiv 2502.01930) promises, as statements of a study in which
people disagree: four in five of those who label prefer replies that affirm, one in five prefers the
opposite, on the same pairs.

Of so plain a conflict nothing but the mix decides: what one group gains the other loses, and a
policy that learns less serves the smaller group better. Hence the arm with half the rate. A group's
accuracy is that of the implicit reward on pairs of other questions (vd/evaluations/metrics/
preference.py); the study calls the groups `majority` and `minority`. Registered before any of it
was trained.
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
MARGIN = 0.05  # smallest difference of interest between two accuracies
MIX = {"majority": 0.8, "minority": 0.2}  # what the pairs are a mix of


def _accuracy(e: "Evidence", role: str, shares: dict[str, float]):
    """Accuracy among people of these shares: seeds x judged steps."""
    return sum(
        share * e.traces.measured(role, "preference", f"accuracy {group}")
        for group, share in shares.items()
    )


def _above(e: "Evidence", one: str, other: str, shares: dict, slack: float = 0.0) -> dict:
    """That `one` is more accurate than `other` less a slack, at the end."""
    ours, theirs = (_accuracy(e, role, shares).iloc[:, -1] for role in (one, other))
    group = " and ".join(shares)
    words = f"{one} above {other}{f' less {slack:g}' if slack else ''}: accuracy {group}"
    margin = None if slack else MARGIN
    return e.over_seeds(words, ours - theirs + slack, margin, student.SHARE)


def _above_at_equal_kl(e: "Evidence", one: str, other: str, shares: dict) -> dict:
    level = e.traces.level(one, other)
    words = f"{one} above {other}: accuracy {' and '.join(shares)}"
    if level is None:
        return student.untested(f"{words}: no common KL of 0.25 nats", student.SHARE)
    ours, theirs = (e.traces.at(role, level, _accuracy(e, role, shares)) for role in (one, other))
    return e.over_seeds(f"{words} at {level:g} nats", ours - theirs, MARGIN, student.SHARE)


FEW = {"minority": 1.0}
BETTER = "better off under the shift (confirmed, on other measures)"

FINDINGS = [
    Finding(
        "dpo_learns",
        "DPO learns what most people want: its accuracy for them is above one half",
        ("dpo",),
        lambda e: [
            e.over_seeds(
                "dpo above 0.5: accuracy majority",
                _accuracy(e, "dpo", {"majority": 1.0}).iloc[:, -1] - 0.5,
                MARGIN,
                student.SHARE,
            )
        ],
        "without it, nothing here says anything",
    ),
    *(
        Finding(
            f"{method}_serves_the_few",
            f"{method.upper()} serves the minority better than DPO",
            ("dpo", method),
            lambda e, method=method: [_above(e, method, "dpo", FEW)],
            BETTER,
        )
        for method in ("kldpo", "wdpo")
    ),
    *(
        Finding(
            f"{method}_costs_nothing",
            f"Where people are as in training {method.upper()} is no worse than DPO, by {MARGIN:g}",
            ("dpo", method),
            lambda e, method=method: [_above(e, method, "dpo", MIX, MARGIN)],
            "not worse without a shift (second-hand)",
        )
        for method in ("kldpo", "wdpo")
    ),
    Finding(
        "wdpo_above_kldpo",
        "WDPO serves the minority better than KLDPO",
        ("kldpo", "wdpo"),
        lambda e: [_above(e, "wdpo", "kldpo", FEW)],
        "order WDPO, KLDPO, DPO on five objectives (a figure of the authors)",
    ),
    *(
        Finding(
            f"{method}_is_more_than_a_rate",
            f"{method.upper()} serves the minority better than DPO with half the rate",
            ("dpo_half", method),
            lambda e, method=method: [_above(e, method, "dpo_half", FEW)],
            "not in the paper",
        )
        for method in ("kldpo", "wdpo")
    ),
    *(
        Finding(
            f"{method}_at_equal_kl",
            f"{method.upper()} serves the minority better than DPO where both have gone equally "
            "far",
            ("dpo", method),
            lambda e, method=method: [_above_at_equal_kl(e, method, "dpo", FEW)],
            "not in the paper",
        )
        for method in ("kldpo", "wdpo")
    ),
    Finding(
        "drdpo_takes_the_few_for_noise",
        "Dr. DPO, which takes hard pairs for wrong labels, serves the minority worse than DPO",
        ("dpo", "drdpo"),
        lambda e: [_above(e, "dpo", "drdpo", FEW)],
        "the opposite weights (arXiv 2407.07880)",
    ),
]
