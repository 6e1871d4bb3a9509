"""Proximal policy optimisation against a reward model (Schulman et al. 2017, arXiv 1707.06347; Ouyang et al. 2022):

    r_t = -kl_coef (log pi(y_t) - log pi_ref(y_t)), plus the reward model's score of the whole reply after its end
    L = E[max(-A rho, -A clip(rho, 1 - cliprange, 1 + cliprange))] + vf_coef L_value,   rho = pi / pi_rollout

with advantages A from generalised advantage estimation, whitened. The reference model pi_ref is the SFT checkpoint, the
value model starts from the reward model. A batch is that many rollouts; each is trained on `ppo_epochs` times. TRL adds
the score to the position after the end token, from where the value model hands it back: weakened, but not lost.
"""

import contextlib
import copy
import io
import warnings
from pathlib import Path
from unittest import mock

from pydantic import Field, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from vd import data, models
from vd.study import Count, Optimisation, PreferenceSettings, Run

CURVES = ("reward", "kl", "entropy", "clip_fraction", "ended")


class RewardSettings(Optimisation):
    """How the reward model is trained, on the run's own pairs."""

    held_out: float = Field(0.2, gt=0, lt=1)  # share of pairs that measure its accuracy
    min_accuracy: float = Field(0.65, ge=0, le=1)  # below, the run stops: PPO would optimise noise
    # replies of the SFT model that scores are normalised on; one alone has no standard deviation
    reference_samples: int = Field(64, ge=2, lt=2**31)


class Settings(PreferenceSettings):
    """Keys of a PPO run; defaults are TRL's, which follow 'N implementation details of RLHF' (HF 2023)."""

    kl_coef: float = Field(0.05, ge=0)
    response_length: Count = 53  # tokens of a rollout
    temperature: float = Field(0.7, ge=0.01, le=10)
    ppo_epochs: Count = 4
    cliprange: float = Field(0.2, gt=0, lt=1)
    vf_coef: PositiveFloat = 0.1
    gae_lambda: float = Field(0.95, ge=0, le=1)
    whiten_rewards: bool = False
    missing_eos_penalty: PositiveFloat | None = None  # subtracted from the score of a reply that does not end
    reward: RewardSettings

    @model_validator(mode="after")
    def _leaves_room(self):
        if self.response_length >= self.max_length:
            why = "response_length must be below max_length, or no prompt has room"
            raise PydanticCustomError("length", why)
        return self


def train(run: Run) -> list[Path]:
    """Train a reward model on the pairs, then the parent SFT checkpoint against it; starts over if interrupted."""
    from vd.methods import trainer

    # TRL's PPO prints a line when it starts, and asks transformers for a name that will go
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore", category=FutureWarning):
        return trainer.fit(run, build, resumable=False)


def build(run: Run):
    """Train the reward model, then make TRL's PPOTrainer, before its first step; its first ratio is checked."""
    import torch
    from trl.experimental.ppo import PPOConfig

    from vd.methods import reward, trainer

    s, start = run.settings, trainer.start_of(run)
    tokenizer = models.load_tokenizer(run.model_settings)
    tokenizer.padding_side = "left"
    prompts = _prompts(run, tokenizer)
    scorer, details = reward.train(run)
    policy = models.for_training(run.model_settings, s.lora, start, run.seed)
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    if s.lora:  # or else TRL would take the base model, without the SFT adapters, as the reference
        policy.load_adapter(start, adapter_name="ref")
    arguments = trainer.arguments(run, len(prompts)) | {"save_only_model": True}
    ppo = _trainer_class()(
        args=PPOConfig(
            **arguments,
            total_episodes=arguments["max_steps"] * s.batch_size,
            local_rollout_forward_batch_size=arguments["per_device_train_batch_size"],
            num_sample_generations=0,
            response_length=s.response_length,
            temperature=s.temperature,
            stop_token="eos",
            kl_coef=s.kl_coef,
            num_ppo_epochs=s.ppo_epochs,
            cliprange=s.cliprange,
            vf_coef=s.vf_coef,
            lam=s.gae_lambda,
            whiten_rewards=s.whiten_rewards,
            missing_eos_penalty=s.missing_eos_penalty,
            model_adapter_name="default" if s.lora else None,
            ref_adapter_name="ref" if s.lora else None,
        ),
        model=policy,
        ref_model=None,
        reward_model=scorer,
        value_model=_trainable(copy.deepcopy(scorer), s.lora),
        train_dataset=prompts,
        eval_dataset=prompts.select(range(1)),
        processing_class=tokenizer,
    )
    trainer.check_reference(policy if s.lora else ppo.ref_model, start)
    with torch.random.fork_rng():
        ppo.details = details | {"first_ratio": first_ratio(ppo)}
    return ppo


def _prompts(run: Run, tokenizer):
    """The pairs' prompts as `input_ids`; those that leave no room for a rollout within `max_length` are left out."""
    from vd.methods import trainer

    s, pairs = run.settings, data.preferences(run.settings, run.seed)
    queries = [trainer.encode(tokenizer, row["prompt"], row["chosen"])[0] for row in pairs]
    prompts = pairs.add_column("input_ids", queries).select_columns(["input_ids"])
    prompts = prompts.filter(lambda row: len(row["input_ids"]) <= s.max_length - s.response_length)
    if len(prompts) < s.batch_size:
        raise ValueError(
            f"{run.id}: {len(prompts)} prompts leave room for response_length within max_length, fewer than batch_size "
            f"{s.batch_size}; lower batch_size or response_length, or raise max_length"
        )
    return prompts


def _trainer_class():
    """TRL's PPOTrainer with likelihoods that agree between rollouts and updates, and measures under plain names."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin
    from trl.experimental.ppo import PPOTrainer, ppo_trainer

    plain_forward, plain_rollouts = ppo_trainer.forward, ppo_trainer.batch_generation

    class Trainer(PPOTrainer):
        _total_train_tokens = 0

        def __init__(self, **kwargs):
            # TRL's own leaves out the precision, and takes a step per part of a batch where the data end
            def accelerator(gradient_accumulation_steps):
                plugin = GradientAccumulationPlugin(num_steps=gradient_accumulation_steps, sync_with_dataloader=False)
                precision = kwargs["args"].mixed_precision
                return Accelerator(gradient_accumulation_plugin=plugin, mixed_precision=precision)

            with mock.patch.object(ppo_trainer, "Accelerator", accelerator):
                super().__init__(**kwargs)

        def train(self):
            with mock.patch.multiple(ppo_trainer, forward=self.forward, batch_generation=self.rollouts):
                super().train()

        def forward(self, model, tokens, pad_token_id):
            """TRL's pass, in the same precision for rollouts, updates and reference, with logits in float32."""
            with self.accelerator.autocast():
                output = plain_forward(model, tokens, pad_token_id)
            if hasattr(output, "logits"):
                output.logits = output.logits.float()
            return output

        def rollouts(self, model, queries, batch_size, pad_token_id, generation_config):
            """TRL's, with logits from the training forward pass instead of generation, whose rounding differs."""
            written, _ = plain_rollouts(model, queries, batch_size, pad_token_id, generation_config)
            outputs = (self.forward(self.model.policy, rows, pad_token_id) for rows in written.split(batch_size))
            logits = torch.cat([output.logits[:, queries.shape[1] - 1 : -1] for output in outputs])
            self._total_train_tokens += int((written != pad_token_id).sum())
            return written, logits / (self.args.temperature + 1e-7)

        def log(self, logs, start_time=None):
            kept = {new: logs[old] for new, old in MEASURES.items()}  # others average over padding as well
            kept["loss"] = logs["loss/policy_avg"] + self.args.vf_coef * logs["loss/value_avg"]
            kept["ended"] = logs["val/num_eos_tokens"] / self.args.batch_size
            super().log(kept | {"num_tokens": self._total_train_tokens}, start_time)

    return Trainer


MEASURES = {  # per update; KL, entropy and reward are means over rollouts of sums over tokens
    "reward": "objective/scores",
    "kl": "objective/kl",
    "entropy": "objective/entropy",
    "rlhf_reward": "objective/rlhf_reward",
    "clip_fraction": "policy/clipfrac_avg",
    "loss/policy": "loss/policy_avg",
    "loss/value": "loss/value_avg",
    "learning_rate": "lr",
}


def first_ratio(ppo) -> dict:
    """The ratio rho between update and rollout before any update: mean and largest distance from 1 over real tokens.

    Anything but 1 means that rollouts and updates compute likelihoods differently, and clipping acts on noise.
    """
    import torch
    from transformers import GenerationConfig
    from trl.trainer.utils import selective_log_softmax

    a, pad = ppo.args, ppo.processing_class.pad_token_id
    queries = next(iter(ppo.dataloader))["input_ids"][: a.per_device_train_batch_size]
    sampling = {"temperature": a.temperature, "top_k": 0, "top_p": 1.0, "do_sample": True}
    with torch.no_grad():
        config = GenerationConfig(max_new_tokens=a.response_length, **sampling)
        written, logits = ppo.rollouts(ppo.model.policy, queries, len(queries), pad, config)
        output, _ = ppo.forward(ppo.model, written, pad)
    ppo._total_train_tokens = 0
    replies = written[:, queries.shape[1] :]
    new = output.logits[:, queries.shape[1] - 1 : -1] / (a.temperature + 1e-7)
    ratio = (selective_log_softmax(new, replies) - selective_log_softmax(logits, replies)).exp()[replies != pad]
    return {"mean": float(ratio.mean()), "largest_distance": float((ratio - 1).abs().max())}


def _trainable(model, lora):
    """Switch training on again: adapters and head with LoRA, everything without."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(lora is None or "lora_" in name or name.startswith("score."))
    return model
