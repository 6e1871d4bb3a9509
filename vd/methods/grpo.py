"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, equations 3 and 4):

    A = (r - mean of the group) / std of the group
    L = -E[min(rho_t A, clip(rho_t, 1 - cliprange, 1 + cliprange) A) - beta KL(pi || pi_ref)]

A group are the replies to one prompt, rho_t the ratio of a token's probabilities now and when it
was written. The reference model pi_ref is the checkpoint that the run starts from. How a loss is
averaged over tokens, and whether advantages are divided by their deviation, differs between
authors: `loss` and `scaled`.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from vd.study.runs import Run
from vd.training.online import OnlineSettings, build

READS = "pairs"
MAKES = "policy"
CURVES = ("reward", "kl", "entropy")
FROZEN, WRITES = 2, True


class Settings(OnlineSettings):
    """Keys of a GRPO run."""

    beta: float = Field(0.04, ge=0)  # the authors'
    # grpo: mean over a reply's tokens, then replies; dapo: over all tokens (Yu et al. 2025);
    # dr_grpo: by a constant (Liu et al. 2025)
    loss: Literal["grpo", "dapo", "dr_grpo"] = "grpo"
    scaled: bool = True  # divide by the group's standard deviation


def train(run: Run) -> list[Path]:
    """Train the parent checkpoint against the scores of a reward model."""
    from trl import GRPOConfig, GRPOTrainer

    from vd.training import trainer

    own = {"loss_type": run.settings.loss, "scale_rewards": run.settings.scaled}
    return trainer.fit(run, lambda run: build(run, GRPOTrainer, GRPOConfig, **own), resumable=False)
