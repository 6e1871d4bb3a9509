"""A reward model, trained on pairs (Bradley-Terry; Ouyang et al. 2022, arXiv 2203.02155):

    L = -E[log sigmoid(r(x, y_w) - r(x, y_l))]

It reads what a policy will write: prompt and reply in the chat template, cut at the length of a
rollout, with an end token only where the reply ends before that. The score is taken at the last
token, in training and in use alike. Afterwards scores are shifted and scaled to mean 0 and standard
deviation 1 on replies of the parent, so that a KL weight means the same whatever pairs the reward
model has seen ('N implementation details of RLHF', HF 2023).
"""

from pathlib import Path

import numpy as np
from pydantic import Field

from vd import paths
from vd.data import sets
from vd.models import loading
from vd.study.runs import Run
from vd.study.settings import RolloutSettings
from vd.study.types import Count

READS = "pairs"
MAKES = "scorer"
CURVES = ("loss", "accuracy", "margin")
SIDES = ("chosen", "rejected")


class RewardModelError(RuntimeError):
    """The reward model tells chosen from rejected replies too badly to train on."""


class Settings(RolloutSettings):
    """Keys of a reward model."""

    save_every: Count | None = None  # of a scorer only the end is used
    # pairs say how likely chosen is preferred (vd/training/soft_labels.py)
    soft_labels: bool = False
    held_out: float = Field(0.2, gt=0, lt=1)  # share of pairs that measure its accuracy
    min_accuracy: float = Field(0.65, ge=0, le=1)  # below, the run stops: PPO would optimise noise
    # replies of the parent that scores are normalised on; one alone has no standard deviation
    reference_samples: int = Field(64, ge=2, lt=2**31)


def train(run: Run) -> list[Path]:
    """Train on pairs, measure on held-out ones; RewardModelError below `min_accuracy`.

    Starts over if interrupted.
    """
    from vd.training import trainer

    return trainer.fit(run, build, resumable=False)


def build(run: Run):
    """TRL's RewardTrainer for a run, before its first step."""
    from trl import RewardConfig, RewardTrainer

    from vd.training import scorers, soft_labels, trainer

    tokenizer = loading.load_tokenizer(run.model_settings)
    held_out, learnt = split(encode_pairs(run, tokenizer), run.settings.held_out)
    if not len(learnt):
        raise RewardModelError(
            f"{run.id}: all {len(held_out)} pairs that leave room for a rollout within max_length "
            "have one prompt, so none is left to train on beside held-out ones; raise max_length"
        )

    class Trainer(soft_labels.SoftLabels, RewardTrainer):
        # trainer._finish takes them off where it counts rows that were too long
        n_held_out = len(held_out)

        def train(self):
            """TRL's, then measured and normalised: what is kept is what will be used."""
            super().train()
            self.model.eval().requires_grad_(False)
            # raises before the record is written, without which PPO loads no reward model
            self.details = quality(run, self.model, tokenizer, held_out, learnt)
            self.save_model(paths.checkpoint(run.study, run.id, self.args.max_steps))

        def compute_loss(self, model, inputs, return_outputs=False, **more):
            p = inputs.pop(sets.P_CHOSEN, None)
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **more)
            if p is not None:
                chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
                loss = loss + soft_labels.added(p, chosen - rejected)
            return (loss, outputs) if return_outputs else loss

        def save_model(self, output_dir=None, _internal_call=False):
            scorers.save(self.model, run, Path(output_dir))

    start, lora = trainer.start_of(run), run.settings.lora
    return Trainer(
        model=scorers.new(run.model_settings, lora, start, tokenizer, run.seed),
        args=RewardConfig(
            # of a scorer only the end is used, and `train` saves it once it is normalised
            **trainer.arguments(run, len(learnt)) | {"save_strategy": "no"},
            max_length=None,  # cut already
        ),
        # where chosen_ids and rejected_ids are there already, TRL tokenises nothing
        train_dataset=learnt.remove_columns(["prompt_ids", "chosen_reply", "rejected_reply"]),
        processing_class=tokenizer,
    )


def quality(run: Run, model, tokenizer, held_out, learnt) -> dict:
    """How good a reward model is, after which its scores are normalised.

    pairs, held_out_pairs, accuracy (share of held-out pairs whose chosen reply scores higher),
    margin (mean difference), and mean and standard deviation of the parent's replies. Pairs are
    split by prompt. Raises RewardModelError where it is no better than `min_accuracy`.
    """
    from vd.training import scorers

    s = run.settings
    chosen, rejected = (
        scorers.scores(model, tokenizer, held_out["prompt_ids"], held_out[f"{side}_reply"])
        for side in SIDES
    )
    found = {
        "pairs": len(learnt),
        "held_out_pairs": len(held_out),
        "accuracy": float((chosen > rejected).float().mean()),
        "margin": float((chosen - rejected).mean()),
    }
    if found["accuracy"] < s.min_accuracy:
        raise RewardModelError(
            f"{run.id}: the reward model is right on {found['accuracy']:.0%} of {len(held_out)} "
            f"held-out pairs, below min_accuracy {s.min_accuracy:.0%}; PPO would optimise noise. "
            "Train it longer (steps), or lower min_accuracy in the study if that is what you want "
            "to see"
        )
    prompts = learnt["prompt_ids"][: s.reference_samples]
    reference = scorers.scores(model, tokenizer, prompts, scorers.sample(run, tokenizer, prompts))
    # in these words NaN, the deviation of a single score, raises too
    if not reference.std() > 0:
        raise RewardModelError(
            f"{run.id}: the reward model gives all {len(reference)} replies of its parent one "
            "score; train it longer (steps) or raise reference_samples"
        )
    scorers.normalise(model, reference)
    spread = {"reference_mean": float(reference.mean()), "reference_std": float(reference.std())}
    return {"quality": found | spread}


def encode_pairs(run: Run, tokenizer):
    """Pairs as tokens in a seeded order: prompt_ids, chosen_reply, rejected_reply, and chosen_ids,
    rejected_ids, beside soft labels if there are some.

    Prompts that leave no room for a rollout within `max_length` are left out.
    """
    from vd.training.trainer import encode

    pairs = sets.preferences(run.settings, run.seed)
    # shuffled, because `split` holds out the first prompts
    pairs = pairs.select(np.random.default_rng(run.seed).permutation(len(pairs)))

    def tokens(row):
        found = {}
        for side in SIDES:
            found["prompt_ids"], reply = encode(tokenizer, row["prompt"], row[side])
            found[f"{side}_reply"] = reply[: run.settings.response_length]
            found[f"{side}_ids"] = found["prompt_ids"] + found[f"{side}_reply"]
        return found

    longest = run.settings.max_length - run.settings.response_length
    texts = [name for name in pairs.column_names if name != sets.P_CHOSEN]
    return pairs.map(tokens, remove_columns=texts).filter(
        lambda row: len(row["prompt_ids"]) <= longest
    )


def split(pairs, share: float):
    """Held-out pairs and the others; no prompt is in both."""
    keys = [tuple(ids) for ids in pairs["prompt_ids"]]
    # in the order of the pairs, which a set would lose: the same prompts every time
    prompts = list(dict.fromkeys(keys))
    held_out = set(prompts[: max(1, round(len(prompts) * share))])
    return (
        pairs.select([i for i, key in enumerate(keys) if (key in held_out) == there])
        for there in (True, False)
    )
