"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7):

    L = -E[log sigmoid(beta log pi(y_w|x)/pi_ref(y_w|x) - beta log pi(y_l|x)/pi_ref(y_l|x))]

The reference model pi_ref is the SFT checkpoint that the run starts from. A larger beta keeps the
policy closer to it.
"""

import copy
from pathlib import Path

from pydantic import PositiveFloat

from vd.data import sets
from vd.models import loading
from vd.study.runs import Run
from vd.study.settings import PreferenceSettings

READS = "pairs"
MAKES = "policy"
FROZEN = 1  # the reference
CURVES = ("loss", "rewards/margins", "rewards/accuracies")
REPLIES = ("chosen_ids", "rejected_ids")  # as TRL calls their tokens


class Settings(PreferenceSettings):
    """Keys of a DPO run."""

    beta: PositiveFloat = 0.1  # the authors' usual value


def train(run: Run) -> list[Path]:
    """Optimise the parent SFT checkpoint on preference pairs."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run: Run):
    """TRL's DPOTrainer for a run, before its first step, its reference model checked."""
    from trl import DPOConfig, DPOTrainer

    from vd.training import reply_logits, trainer
    from vd.training.reference import check_reference

    class Trainer(DPOTrainer):
        def _compute_loss(self, model, inputs, return_outputs):
            """TRL's, on the part of a batch where replies are; models read all of it."""
            kept = reply_logits.positions(inputs["completion_mask"])
            end = {name: values[:, -kept:] for name, values in inputs.items()}
            whole = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            models = [self.model, *([self.ref_model] if self.ref_model else [])]
            if not all(map(reply_logits.supported, models)):
                return super()._compute_loss(model, inputs, return_outputs)
            # TRL counts those of the part
            left_out = inputs["attention_mask"][:, :-kept].sum()
            self._total_train_tokens += int(self.accelerator.gather(left_out).sum())
            with reply_logits.only(models, whole, kept):
                return super()._compute_loss(model, end, return_outputs)

    start = trainer.start_of(run)
    policy = loading.for_training(run.model_settings, run.settings.lora, start, run.seed)
    # With adapters TRL copies the start adapter as the frozen reference. Without, it would reload
    # whatever the model's configuration names, which need not be the SFT checkpoint, so a copy is
    # passed.
    reference = None if run.settings.lora else copy.deepcopy(policy)
    pairs = sets.preferences(run.settings, run.seed)
    arguments = trainer.arguments(run, len(pairs)) | {"max_length": run.settings.max_length}
    dpo = Trainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(**arguments, beta=run.settings.beta, loss_type=["sigmoid"]),
        train_dataset=pairs,
        processing_class=loading.load_tokenizer(run.model_settings),
    )
    dpo.train_dataset = dpo.train_dataset.map(
        lambda row: {ids: row[ids][: run.settings.response_length] for ids in REPLIES}
    )
    # without a parent's checkpoint the reference is the model as it came
    if start:
        check_reference(dpo.model if reference is None else dpo.ref_model, start)
    return dpo
