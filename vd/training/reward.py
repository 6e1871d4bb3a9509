"""The reward model behind PPO, trained on preference pairs (Bradley-Terry; Ouyang et al. 2022,
arXiv 2203.02155):

    L = -E[log sigmoid(r(x, y_w) - r(x, y_l))]

It reads what the policy will write: prompt and reply in the chat template, cut at the length of a
rollout, with an end token only where the reply ends before that. The score is taken at the last
token, in training and in use alike. Afterwards scores are shifted and scaled to mean 0 and standard
deviation 1 on replies of the SFT model, so that a KL weight means the same whatever pairs the
reward model has seen ('N implementation details of RLHF', HF 2023).
"""

import copy
import tempfile

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model

from vd.data import sets
from vd.finite import finite
from vd.models import loading
from vd.study.runs import Run
from vd.training import trainer

SIDES = ("chosen", "rejected")


class RewardModelError(RuntimeError):
    """The reward model tells chosen from rejected replies too badly to train on."""


class Head(torch.nn.Linear):
    """A score head in float32 on a backbone of any dtype.

    Bfloat16 would round its small updates away.
    """

    def forward(self, hidden):
        """Scores (..., 1) of hidden states (..., d)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.to(self.weight.dtype))


def train_reward_model(run: Run) -> tuple[torch.nn.Module, dict]:
    """A normalised reward model for a run, and how it was trained; raises RewardModelError below
    `min_accuracy`.

    Pairs are split by prompt; accuracy is the share of held-out pairs whose chosen reply scores
    higher.
    """
    from trl import RewardConfig, RewardTrainer

    settings, tokenizer = run.settings.reward, loading.load_tokenizer(run.model_settings)
    held_out, learnt = split(encode_pairs(run, tokenizer), settings.held_out)
    if not len(learnt):
        raise RewardModelError(
            f"{run.id}: all {len(held_out)} pairs that leave room for a rollout within max_length "
            "have one prompt, so none is left to train on beside held-out ones; raise max_length"
        )
    with tempfile.TemporaryDirectory() as folder:
        fitting = RewardTrainer(
            model=build(run, tokenizer),
            args=RewardConfig(
                **trainer.arguments(run, len(learnt), settings)
                | {"output_dir": folder, "save_strategy": "no"},
                max_length=None,  # cut already
            ),
            train_dataset=learnt.remove_columns(["prompt_ids", "chosen_reply", "rejected_reply"]),
            processing_class=tokenizer,
        )
        fitting.add_callback(trainer.Report(run, fitting.args.max_steps, "reward"))
        fitting.train()
    model = fitting.model.eval().requires_grad_(False)
    chosen, rejected = (
        scores(model, tokenizer, held_out["prompt_ids"], held_out[f"{s}_reply"]) for s in SIDES
    )
    report = {
        "reward_model": {
            "pairs": len(learnt),
            "held_out_pairs": len(held_out),
            "accuracy": float((chosen > rejected).float().mean()),
            "margin": float((chosen - rejected).mean()),
            "steps": fitting.args.max_steps,
        }
    }
    if report["reward_model"]["accuracy"] < settings.min_accuracy:
        raise RewardModelError(
            f"{run.id}: the reward model is right on {report['reward_model']['accuracy']:.0%} of {len(held_out)} "
            f"held-out pairs, below reward.min_accuracy {settings.min_accuracy:.0%}; PPO would optimise noise. Train "
            "it longer (reward.steps), or lower reward.min_accuracy in the study if that is what you want to see"
        )
    prompts = learnt["prompt_ids"][: settings.reference_samples]
    before = scores(model, tokenizer, prompts, sample(run, tokenizer, prompts))
    if not before.std() > 0:
        raise RewardModelError(
            f"{run.id}: the reward model gives all {len(before)} replies of the SFT model one "
            "score; train it longer (reward.steps) or raise reward.reference_samples"
        )
    normalise(model, before)
    report["reward_model"] |= {
        "reference_mean": float(before.mean()),
        "reference_std": float(before.std()),
    }
    return model, report


def encode_pairs(run: Run, tokenizer):
    """Pairs as tokens in a seeded order: prompt_ids, chosen_reply, rejected_reply, and chosen_ids,
    rejected_ids.

    Prompts that leave no room for a rollout within `max_length` are left out.
    """
    pairs = sets.preferences(run.settings, run.seed)
    pairs = pairs.select(np.random.default_rng(run.seed).permutation(len(pairs)))

    def tokens(row):
        found = {}
        for side in SIDES:
            found["prompt_ids"], reply = trainer.encode(tokenizer, row["prompt"], row[side])
            found[f"{side}_reply"] = reply[: run.settings.response_length]
            found[f"{side}_ids"] = found["prompt_ids"] + found[f"{side}_reply"]
        return found

    longest = run.settings.max_length - run.settings.response_length
    return pairs.map(tokens, remove_columns=pairs.column_names).filter(
        lambda row: len(row["prompt_ids"]) <= longest
    )


def split(pairs, share: float):
    """Held-out pairs and the others; no prompt is in both."""
    keys = [tuple(ids) for ids in pairs["prompt_ids"]]
    prompts = list(dict.fromkeys(keys))
    held_out = set(prompts[: max(1, round(len(prompts) * share))])
    return (
        pairs.select([i for i, key in enumerate(keys) if (key in held_out) == there])
        for there in (True, False)
    )


def build(run: Run, tokenizer) -> torch.nn.Module:
    """A scorer on the SFT model's backbone, with a fresh head of standard deviation 1/sqrt(d + 1)
    and zero bias.

    With LoRA, adapters go into the backbone in place, so the model stays the plain class that TRL's
    PPO expects.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(run.seed)
    language_model = loading.for_inference(run.model_settings, trainer.start_of(run))
    if run.settings.lora is None:
        language_model = language_model.float()
    config = copy.deepcopy(language_model.config)
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    scorer = AutoModelForSequenceClassification.from_config(config, dtype=language_model.dtype)
    backbone = getattr(scorer, scorer.base_model_prefix)
    backbone.load_state_dict(language_model.base_model.state_dict())
    scorer.score = Head(config.hidden_size, 1)
    torch.nn.init.normal_(scorer.score.weight, std=(config.hidden_size + 1) ** -0.5)
    torch.nn.init.zeros_(scorer.score.bias)
    if lora := run.settings.lora:
        linear = {
            n.rpartition(".")[2]
            for n, m in backbone.named_modules()
            if isinstance(m, torch.nn.Linear)
        }
        adapters = LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=linear
        )
        inject_adapter_in_model(adapters, backbone)
        for name, weight in backbone.named_parameters():
            if (
                "lora_" in name
            ):  # in float32 for the same reason as the head; PEFT sees to it elsewhere
                weight.data = weight.data.float()
    return scorer


def scores(
    model, tokenizer, prompts: list[list[int]], replies: list[list[int]], batch: int = 8
) -> torch.Tensor:
    """Scores (N,) in float32 of tokenised prompts and replies, padded and read as PPO does."""
    from trl.experimental.utils import get_reward

    found = []
    for start in range(0, len(prompts), batch):
        asked = _pad(prompts[start : start + batch], tokenizer.pad_token_id, "left")
        told = _pad(replies[start : start + batch], tokenizer.pad_token_id, "right")
        whole = torch.cat([asked, told], dim=1).to(model.device)
        with torch.no_grad():
            found.append(
                get_reward(model, whole, tokenizer.pad_token_id, asked.shape[1])[1].float().cpu()
            )
        finite(found[-1], "a score of the reward model", trainer.FIX)
    return torch.cat(found)


def sample(run: Run, tokenizer, prompts: list[list[int]]) -> list[list[int]]:
    """One reply of the SFT model to each tokenised prompt, sampled as PPO samples rollouts, end
    token included.
    """
    policy, replies = loading.for_inference(run.model_settings, trainer.start_of(run)), []
    batch = run.settings.device_batch_size or run.settings.batch_size
    torch.manual_seed(run.seed)
    for start in range(0, len(prompts), batch):
        asked = _pad(prompts[start : start + batch], tokenizer.pad_token_id, "left").to(
            policy.device
        )
        written = policy.generate(
            input_ids=asked,
            attention_mask=asked != tokenizer.pad_token_id,
            max_new_tokens=run.settings.response_length,
            do_sample=True,
            temperature=run.settings.temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )[:, asked.shape[1] :]
        replies += [[t for t in reply if t != tokenizer.pad_token_id] for reply in written.tolist()]
    return replies


def normalise(model, reference: torch.Tensor) -> None:
    """Fold mean and standard deviation of reference scores (N,) into the head."""
    model.score.bias.data = (model.score.bias.data - reference.mean()) / reference.std()
    model.score.weight.data /= reference.std()


def _pad(rows: list[list[int]], token: int, side: str) -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(
        tensors, batch_first=True, padding_value=token, padding_side=side
    )
