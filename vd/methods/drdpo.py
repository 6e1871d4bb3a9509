"""DPO that bears wrong labels, Dr. DPO (Wu et al. 2024, arXiv 2407.07880):

    L = -beta_prime log mean_i exp(-l_i / beta_prime)

l_i is DPO's loss of a pair. Its gradient is that of sum_i w_i l_i with w = softmax(-l / beta_prime)
held constant, which is what metrics.csv shows as the loss: pairs that are hard now count *less*,
the opposite of KLDPO, since a hard pair is taken for a wrong label. Losses are those of all pairs
of an optimiser's step, as in KLDPO. A large beta_prime gives DPO.
"""

from pathlib import Path

from pydantic import PositiveFloat

from vd.methods.dpo import CURVES as CURVES
from vd.methods.dpo import BetaSettings
from vd.methods.kldpo import softmax_weights
from vd.study.runs import Run

READS = "pairs"
MAKES = "policy"
FROZEN = 1  # the reference


class Settings(BetaSettings):
    """Keys of a Dr. DPO run."""

    beta_prime: PositiveFloat = 1.0  # the authors'


def train(run: Run) -> list[Path]:
    """Optimise the parent checkpoint on preference pairs."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run: Run):
    """The trainer of a run before its first step."""
    from vd.training import pairs

    tau = -run.settings.beta_prime
    return pairs.build(
        run, pairs.WeightedTrainer, weigh=lambda losses, batch: softmax_weights(losses, batch, tau)
    )
