"""DPO that bears a shift of its preferences within a ball of KL divergence (Xu et al. 2025, arXiv
2502.01930): pairs that are hard now count more.

    derived    L = sum_i w_i l_i,    w = softmax(l / tau)
    coded      L = mean_i w_i l_i,   w_i = min(CAP, exp((l_i - mean l) / tau))

l_i is DPO's loss of a pair and its weight a constant to the gradient. `derived` is the worst
distribution over the batch, p_i = w_i, for sup_p sum_i p_i l_i - tau KL(p || uniform); `coded` is
the formula of the authors' program, whose weights need not sum to one. At a small tau the two
differ much. Losses are those of all pairs of an optimiser's step, however many forward passes and
processes it takes, so the size of a batch is part of the method; the authors' program takes the
mean over one forward pass of all processes. A large tau gives DPO. Losses spread in proportion to
beta, and tau should follow it.
"""

from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat

from vd.methods.dpo import CURVES as CURVES
from vd.methods.dpo import BetaSettings
from vd.study.runs import Run

READS = "pairs"
MAKES = "policy"
FROZEN = 1  # the reference
CAP = 10.0  # the authors'


class Settings(BetaSettings):
    """Keys of a KLDPO run."""

    tau: PositiveFloat = 0.05  # the authors' for a model of 1B, at beta 0.01
    form: Literal["derived", "coded"] = "derived"


def train(run: Run) -> list[Path]:
    """Optimise the parent checkpoint on preference pairs."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run: Run):
    """The trainer of a run before its first step."""
    from vd.training import pairs

    weigh = {"derived": softmax_weights, "coded": capped_weights}[run.settings.form]
    tau = run.settings.tau
    return pairs.build(
        run, pairs.WeightedTrainer, weigh=lambda losses, batch: weigh(losses, batch, tau)
    )


def softmax_weights(losses, batch, tau: float):
    """N softmax(l / tau): weights (n,) of losses (n,) among those of a batch (N,), whose own have
    the mean one. A negative tau favours small losses.
    """
    return len(batch) * (losses / tau - (batch / tau).logsumexp(0)).exp()


def capped_weights(losses, batch, tau: float):
    """The authors' weights (n,), none above CAP."""
    return ((losses - batch.mean()) / tau).exp().clamp(max=CAP)
