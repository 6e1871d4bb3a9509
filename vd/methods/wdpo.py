"""DPO that bears a shift of its preferences within a Wasserstein ball (Xu et al. 2025, arXiv
2502.01930): a pair's loss may not hang on small changes of what is read.

    L = mean_i [l_i + rho |g_i|^2],    g_i = d l_i / d e_i

l_i is DPO's loss of a pair and e_i the policy's input embeddings of its prompt and both replies;
|g_i|^2 sums over positions and width, as in the authors' program (the bound that they derive has a
root over the mean). The gradient of the penalty takes no second derivative, which fast attention
lacks, but a difference of two losses: with g_i held constant,

    d |g_i|^2 / d theta  =  d / d theta [l_i(e_i + eps g_i) - l_i(e_i - eps g_i)] / eps

up to eps^2. `eps` moves a pair's embeddings by STEP of their length. A step costs three forward
and four backward passes of the policy, whose activations are held at once, in float32 whatever the
model's dtype: bfloat16 rounds the difference away. The penalty's weight against the loss is in
proportion to rho beta.
"""

from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat

from vd.methods.dpo import CURVES as CURVES
from vd.methods.dpo import BetaSettings
from vd.study.runs import Run

READS = "pairs"
MAKES = "policy"
FROZEN = 1  # the reference
PASSES = 3  # forward and backward
STEP = 3e-4


class Settings(BetaSettings):
    """Keys of a WDPO run."""

    rho: NonNegativeFloat = 0.01  # the authors' for a model of 1B, at beta 0.01
    processes: Literal[1] = 1  # embeddings are read outside the model, which sharding forbids


def train(run: Run) -> list[Path]:
    """Optimise the parent checkpoint on preference pairs."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run: Run):
    """The trainer of a run before its first step."""
    from vd.training import pairs

    model = run.model_settings.model_copy(update={"dtype": "float32"})
    precise = run.model_copy(update={"model_settings": model})
    return pairs.build(precise, _trainer_class(), rho=run.settings.rho)


def _trainer_class():
    """DPO's trainer with the penalty."""
    import torch

    from vd.training import pairs

    class WDPOTrainer(pairs.PairLossTrainer):
        def __init__(self, rho: float, **how):
            super().__init__(**how)
            self.rho = rho

        def whole_loss(self, model, inputs, end):
            embed = self.accelerator.unwrap_model(model).get_input_embeddings()
            around = embed(inputs["input_ids"])
            # of embeddings that are trained the gradient has to go on to their weights
            read = around if around.requires_grad else around.detach().requires_grad_()
            outputs, losses = self.losses(model, end, inputs_embeds=read)
            # pairs do not see each other: the gradient of the sum holds that of each
            (slope,) = torch.autograd.grad(losses.sum(), read, retain_graph=True)
            square = pair_sum(slope.square())
            # without padding, or the step would depend on the batch
            length = pair_sum((around.detach() * inputs["attention_mask"][..., None]).square())
            eps = STEP * (length / square.clamp(min=1e-30)).sqrt()
            move = eps.repeat(2)[:, None, None] * slope
            above, below = (
                self.losses(model, end, inputs_embeds=around + sign * move)[1] for sign in (1, -1)
            )
            # the difference has the penalty's gradient and twice its value
            penalty = (above - below) / eps
            penalty = penalty - penalty.detach() + square
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["input_gradient"].append(
                self.accelerator.gather(square).mean().item()
            )
            return (losses + self.rho * penalty).mean(), outputs

    def pair_sum(values):
        """Sums (n,) over both sides of pairs, from values (2n, T, d)."""
        return values.double().sum((1, 2)).view(2, -1).sum(0).to(values.dtype)

    return WDPOTrainer
