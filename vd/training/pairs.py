"""Training on pairs by how much more a policy prefers chosen replies than its reference does: TRL's
DPO with logits at replies alone, and losses that are made of DPO's loss of each pair.
"""

import contextlib
import copy
from collections.abc import Callable

import torch
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import selective_log_softmax

from vd.data import sets
from vd.models import loading
from vd.study.runs import Run
from vd.training import reply_logits, trainer
from vd.training.reference import check_reference
from vd.training.soft_labels import SoftLabels, added

SIDES = ("chosen", "rejected")


class PairTrainer(DPOTrainer):
    """TRL's, on the part of a batch where replies are; models read all of it."""

    def _compute_loss(self, model, inputs, return_outputs):
        with self.at_replies(inputs) as end:
            # TRL counts those of the part
            left_out = inputs["attention_mask"].sum() - end["attention_mask"].sum()
            self._total_train_tokens += int(self.accelerator.gather(left_out).sum())
            return self.reply_loss(model, inputs, end, return_outputs)

    def reply_loss(self, model, inputs: dict, end: dict, return_outputs: bool):
        """The loss of a batch, whose part at the replies is `end`."""
        return super()._compute_loss(model, end, return_outputs)

    @contextlib.contextmanager
    def at_replies(self, inputs: dict):
        """Within it, models return logits of the end of a batch, where its replies are, whatever
        part they are given; gives that end of each column.
        """
        kept = reply_logits.positions(inputs["completion_mask"])
        whole = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        models = [self.model, *([self.ref_model] if self.ref_model else [])]
        if not all(map(reply_logits.supported, models)):
            yield inputs
            return
        with reply_logits.only(models, whole, kept):
            # columns with one value a row, such as the reference's, have no end
            yield {n: v[:, -kept:] if v.dim() > 1 else v for n, v in inputs.items()}


class PairLossTrainer(PairTrainer):
    """A loss that is made of DPO's loss of each pair, l_i = -log sigmoid(beta h_i)."""

    def __init__(self, **how):
        super().__init__(**how)
        # those of a batch are in it when TRL looks for them: `reference` puts them there
        self.precompute_ref_logps = True
        self.aux_loss_enabled = False  # of mixtures of experts, which would need a pass of TRL's

    def reply_loss(self, model, inputs, end, return_outputs):
        if "ref_chosen_logps" not in end:
            end = end | self.reference(end)
        loss, outputs = self.whole_loss(model, inputs, end)
        with torch.no_grad():  # TRL's, of what the model said, for its metrics
            DPOTrainer._compute_loss(self, lambda **_: outputs, end, False)
        return (loss, outputs) if return_outputs else loss

    def whole_loss(self, model, inputs: dict, end: dict):
        """The loss of a batch and the outputs of the model; `end` holds the reference's columns."""
        raise NotImplementedError

    def reference(self, end: dict) -> dict:
        """The reference's log-probabilities of replies (n,), as TRL names them."""
        found = self.compute_ref_log_probs(self.ref_model or self.model, end)
        return {f"ref_{side}_logps": of for side, of in zip(SIDES, found, strict=True)}

    def losses(self, model, end: dict, **read):
        """What a model says of a batch, and DPO's loss of each pair (n,), see `ahead`."""
        outputs, ahead = self.ahead(model, end, **read)
        return outputs, -logsigmoid(ahead)

    def ahead(self, model, end: dict, **read):
        """What a model says of a batch, and beta h_i of each pair (n,); `read` is what the model is
        given in place of the tokens.
        """
        read = read or {"input_ids": end["input_ids"]}
        outputs = model(**read, attention_mask=end["attention_mask"], use_cache=False)
        there = end["completion_mask"][:, 1:] != 0
        tokens = selective_log_softmax(outputs.logits[:, :-1], end["input_ids"][:, 1:])
        chosen, rejected = tokens.where(there, 0.0).sum(1).chunk(2)
        margin = chosen - end["ref_chosen_logps"] - rejected + end["ref_rejected_logps"]
        return outputs, self.beta * margin


class SoftTrainer(SoftLabels, PairLossTrainer):
    """DPO on soft labels (vd/training/soft_labels.py)."""

    def whole_loss(self, model, inputs, end):
        outputs, ahead = self.ahead(model, end)
        return -logsigmoid(ahead).mean() + added(inputs[sets.P_CHOSEN], ahead), outputs


class WeightedTrainer(PairLossTrainer):
    """The mean of w_i l_i over the pairs of an optimiser's step, with weights that are constants to
    the gradient.

    `weigh` takes the losses of some pairs (n,) and those of all pairs of the step (N,), and gives
    weights (n,). Where a forward pass of one process reads fewer than the step, the step begins
    with a pass without gradients over all of it.
    """

    def __init__(self, weigh: Callable, **how):
        super().__init__(**how)
        self.weigh, self.step_losses, self.passes = weigh, None, 1

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """transformers' batches of the next step, their losses looked at."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step_losses, self.passes = None, len(batches) * self.accelerator.num_processes
        if self.passes > 1:
            batches = [self._prepare_inputs(batch) for batch in batches]
            found = [self._losses_now(batch) for batch in batches]
            self.step_losses = self.accelerator.gather(torch.cat(found))
        return batches, items

    def whole_loss(self, model, inputs, end):
        outputs, losses = self.losses(model, end)
        now = losses.detach()
        of_step = now if self.step_losses is None else self.step_losses
        # transformers takes the mean over passes, which need not be of one size
        scale = self.passes / len(of_step)
        return scale * (self.weigh(now, of_step) * losses).sum(), outputs

    @torch.no_grad()
    def _losses_now(self, inputs: dict) -> torch.Tensor:
        """Losses of a batch's pairs as the model is; the reference's part of them stays in it."""
        with self.compute_loss_context_manager(), self.at_replies(inputs) as end:
            reference = self.reference(end)
            inputs |= reference
            return self.losses(self.model, end | reference)[1]


def build(run: Run, kind: type[PairTrainer] = PairTrainer, **own):
    """A run's trainer of this kind before its first step, its reference model checked."""
    start = trainer.start_of(run)
    policy = loading.for_training(run.model_settings, run.settings.lora, start, run.seed)
    # With adapters TRL copies the start adapter as the frozen reference. Without, it would reload
    # whatever the model's configuration names, which need not be the SFT checkpoint, so a copy is
    # passed.
    reference = None if run.settings.lora else copy.deepcopy(policy)
    pairs = sets.preferences(run.settings, run.seed)
    arguments = trainer.arguments(run, len(pairs)) | {"max_length": run.settings.max_length}
    built = kind(
        model=policy,
        ref_model=reference,
        args=DPOConfig(**arguments, beta=run.settings.beta, loss_type=["sigmoid"]),
        train_dataset=pairs,
        processing_class=loading.load_tokenizer(run.model_settings),
        **own,
    )
    longest = run.settings.response_length
    ids = [f"{side}_ids" for side in SIDES]  # as TRL calls replies' tokens
    built.train_dataset = built.train_dataset.map(lambda row: {i: row[i][:longest] for i in ids})
    # without a parent's checkpoint the reference is the model as it came
    if start:
        check_reference(built.model if reference is None else built.ref_model, start)
    return built
