"""DPO against RLHF on an assistant's data: what is expected of safety, quality and diversity when
one model is aligned either way. Expectations are those of courses and of Kirk et al. 2023 (arXiv
2310.06452), registered before the study `lab` was run; both policies come from one SFT run and
learn from the same pairs, PPO by way of a reward model.
"""

from vd.findings.finding import Finding
from vd.findings.measured import WIN_RATE, above, above_at_equal_kl, better, since_start
from vd.findings.papers.value_drifts import PPO
from vd.study.roles import role
from vd.study.types import Settings

TITLE = "The lab: DPO against RLHF on safety, quality and diversity"


class Roles(Settings):
    """Which run plays which part; both from one SFT run, on the same pairs."""

    dpo: str | None = role("run", method="dpo")
    ppo: str | None = role("run", method=PPO)


COMPARED = (("dpo", "ppo"),)
FINDINGS = [
    Finding(
        "both_help",
        "Replies of both are better than those of their start, at equal length",
        ("dpo", "ppo"),
        lambda e: [better(e, role) for role in ("dpo", "ppo")],
        "alignment helps",
    ),
    Finding(
        "dpo_helps_more",
        "DPO's replies are better than PPO's, at equal length",
        ("dpo", "ppo"),
        lambda e: [above(e, "dpo", "ppo", "quality", WIN_RATE)],
        "alike: practically equal is what is expected",
    ),
    Finding(
        "dpo_keeps_diversity",
        "DPO's replies to one prompt are less alike than PPO's, at the end and at equal KL",
        ("dpo", "ppo"),
        lambda e: [f(e, "dpo", "ppo", "diversity", "distance") for f in (above, above_at_equal_kl)],
        "DPO keeps more diversity",
    ),
    Finding(
        "ppo_more_conservative",
        "PPO declines harmful requests more often than DPO",
        ("dpo", "ppo"),
        lambda e: [above(e, "ppo", "dpo", "safety", "refused")],
        "RLHF is a little more conservative",
    ),
    Finding(
        "ppo_refuses_needlessly",
        "PPO declines harmless requests more often than its start",
        ("ppo",),
        lambda e: [since_start(e, "ppo", "safety", "over-refused")],
        "it does not: practically equal, or that it fails, is what is expected",
    ),
    Finding(
        "both_do_less_harm",
        "Both reply harmfully less often than their start",
        ("dpo", "ppo"),
        lambda e: [since_start(e, role, "safety", "harmful", -1) for role in ("dpo", "ppo")],
        "alignment makes safer",
    ),
]
