"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734, equation 6):

    L = -E[log sigmoid(beta/|y_w| log pi(y_w|x) - beta/|y_l| log pi(y_l|x) - gamma)]

No reference model: the implicit reward is the mean log-probability of a reply's tokens, and gamma
is the margin by which the chosen reply should win. Note that gamma is not the ratio gamma/beta that
the authors list.
"""

import functools
from pathlib import Path

from pydantic import Field, PositiveFloat

from vd.data import sets
from vd.models import loading
from vd.study.runs import Run
from vd.study.settings import PreferenceSettings

READS = "pairs"
MAKES = "policy"
SIDES = ("chosen", "rejected")
CURVES = ("loss", "rewards/margins", "rewards/accuracies")


class Settings(PreferenceSettings):
    """Keys of a SimPO run.

    Defaults are the authors' for Llama-3 base models (github.com/princeton-nlp/SimPO).
    """

    beta: PositiveFloat = 2.0
    gamma: float = Field(1.0, ge=0)


def train(run: Run) -> list[Path]:
    """Optimise the parent SFT checkpoint on preference pairs."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run: Run):
    """TRL's CPOTrainer with the settings that make it SimPO, before its first step."""
    from trl.experimental.cpo import CPOConfig

    from vd.training import trainer

    tokenizer = loading.load_tokenizer(run.model_settings)
    pairs = _tokens(run, tokenizer)
    return _trainer_class(run.settings.max_length)(
        model=loading.for_training(
            run.model_settings, run.settings.lora, trainer.start_of(run), run.seed
        ),
        args=CPOConfig(
            **trainer.arguments(run, len(pairs)),
            loss_type="simpo",
            cpo_alpha=0.0,  # the trainer's default adds an SFT loss on chosen replies
            beta=run.settings.beta,
            simpo_gamma=run.settings.gamma,
            remove_unused_columns=False,
        ),
        train_dataset=pairs,
        processing_class=tokenizer,
    )


def _trainer_class(max_length: int):
    """TRL's CPOTrainer, which cuts long replies at their end as the other methods do (TRL's cuts
    them elsewhere), computes logits at replies alone and counts tokens.
    """
    from trl.experimental.cpo import CPOTrainer

    from vd.training import reply_logits

    class SimPOTrainer(CPOTrainer):
        _total_train_tokens = 0

        def tokenize_row(self, feature, model=None):
            row = {"prompt_input_ids": feature["prompt_tokens"]}
            for side in SIDES:
                ids = (feature["prompt_tokens"] + feature[f"{side}_tokens"])[:max_length]
                read = min(len(feature["prompt_tokens"]), len(ids))
                row[f"{side}_input_ids"], row[f"{side}_attention_mask"] = ids, [1] * len(ids)
                row[f"{side}_labels"] = [-100] * read + ids[read:]
            return row

        def compute_loss(self, model, inputs, *args, **kwargs):
            tokens = sum(inputs[f"{side}_attention_mask"].sum() for side in SIDES)
            self._total_train_tokens += int(self.accelerator.gather(tokens).sum())
            return super().compute_loss(model, inputs, *args, **kwargs)

        def concatenated_forward(self, model, batch):
            """TRL's, with logits at replies alone."""
            if not reply_logits.supported(self.accelerator.unwrap_model(model)):
                return super().concatenated_forward(model, batch)
            kept = reply_logits.positions(*(batch[f"{side}_labels"] != -100 for side in SIDES))
            cut = functools.partial(model, logits_to_keep=kept)
            return super().concatenated_forward(cut, batch)

        @staticmethod
        def get_batch_logps(logits, labels, **how):
            """TRL's, of labels where there are logits."""
            return CPOTrainer.get_batch_logps(logits, labels[:, -logits.shape[1] :], **how)

        def log(self, logs, start_time=None):
            super().log(logs | {"num_tokens": self._total_train_tokens}, start_time)

    return SimPOTrainer


def _tokens(run: Run, tokenizer):
    """The run's pairs with the ids of prompt, chosen and rejected, cut as the other methods cut."""
    from vd.training import trainer

    pairs = sets.preferences(run.settings, run.seed)
    encoded = [
        {side: trainer.encode(tokenizer, row["prompt"], row[side]) for side in SIDES}
        for row in pairs
    ]
    # the prompt's ids are the same on both sides
    parts = {"prompt": ("chosen", 0), "chosen": ("chosen", 1), "rejected": ("rejected", 1)}
    for column, (side, part) in parts.items():
        ids = [row[side][part] for row in encoded]
        if part:
            ids = [reply[: run.settings.response_length] for reply in ids]
        pairs = pairs.add_column(f"{column}_tokens", ids)
    # nothing would be left of a reply after so long a prompt, and its mean log-probability would
    # not be a number
    return pairs.filter(lambda row: len(row["prompt_tokens"]) < run.settings.max_length)
