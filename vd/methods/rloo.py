"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740):

    R = r(x, y) - beta sum_t (log pi(y_t) - log pi_ref(y_t))
    A = R - mean of the R of the other replies to x
    L = -E[min(rho A, clip(rho, 1 - cliprange, 1 + cliprange) A)],  rho = pi(y|x) / pi_rollout(y|x)

No critic: the other replies to the same prompt are the baseline. The reference model pi_ref is the
checkpoint that the run starts from.
"""

from pathlib import Path

from vd.study.runs import Run
from vd.training.online import OnlineSettings, build

READS = "pairs"
MAKES = "policy"
CURVES = ("reward", "kl", "entropy")
FROZEN, WRITES = 2, True


class Settings(OnlineSettings):
    """Keys of an RLOO run; `beta` is TRL's."""


def train(run: Run) -> list[Path]:
    """Train the parent checkpoint against the scores of a reward model."""
    from trl import RLOOConfig, RLOOTrainer

    from vd.training import trainer

    return trainer.fit(run, lambda run: build(run, RLOOTrainer, RLOOConfig), resumable=False)
