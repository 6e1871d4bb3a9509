"""Proximal policy optimisation against a reward model (Schulman et al. 2017, arXiv 1707.06347;
Ouyang et al. 2022, arXiv 2203.02155):

    r_t = -kl_coef (log pi(y_t) - log pi_ref(y_t)),  plus, after its end, the whole reply's score
    rho = pi / pi_rollout
    L = E[max(-A rho, -A clip(rho, 1 - cliprange, 1 + cliprange))] + vf_coef L_value

with advantages A from generalised advantage estimation, whitened. The reference model pi_ref is the
checkpoint that the run starts from, the value model starts from the reward model, a run of the
study. A batch is that many rollouts; each is trained on `ppo_epochs` times. TRL adds the score to
the position after the end token, from where the value model hands it back: weakened, but not lost.
"""

import contextlib
import copy
import io
import warnings
from pathlib import Path

from pydantic import Field, PositiveFloat

from vd.models import loading
from vd.study.runs import Run
from vd.study.settings import RolloutSettings
from vd.study.types import Count
from vd.training.ppo_trainer import first_ratio, trainable, trainer_class

READS = "pairs"
MAKES = "policy"
FROZEN, TRAINED, WRITES = 2, 2, True  # reference and reward model; policy and value model
CURVES = ("reward", "kl", "entropy", "clip_fraction", "ended")


class Settings(RolloutSettings):
    """Keys of a PPO run.

    Defaults are TRL's, which follow 'N implementation details of RLHF' (HF 2023).
    """

    kl_coef: float = Field(0.05, ge=0)
    ppo_epochs: Count = 4
    cliprange: float = Field(0.2, gt=0, lt=1)
    vf_coef: PositiveFloat = 0.1
    gae_lambda: float = Field(0.95, ge=0, le=1)
    whiten_rewards: bool = False
    # subtracted from the score of a reply that does not end
    missing_eos_penalty: PositiveFloat | None = None
    scorer: str  # a run of the section scorers, which gives replies their reward


def train(run: Run) -> list[Path]:
    """Train the parent checkpoint against the scores of a reward model.

    Starts over if interrupted.
    """
    from vd.training import trainer

    # TRL's PPO prints a line when it starts, and asks transformers for a name that will go
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(action="ignore", category=FutureWarning),
    ):
        return trainer.fit(run, build, resumable=False)


def build(run: Run):
    """TRL's PPOTrainer for a run, before its first step; its first ratio is checked."""
    import torch
    from trl.experimental.ppo import PPOConfig

    from vd.training import scorers, trainer
    from vd.training.reference import check_reference

    s, start = run.settings, trainer.start_of(run)
    tokenizer = loading.load_tokenizer(run.model_settings)
    # what is generated follows the last column of a batch
    tokenizer.padding_side = "left"
    prompts = _prompts(run, tokenizer)
    scorer = scorers.load(run.study, run.scorer, tokenizer)
    policy = loading.for_training(run.model_settings, s.lora, start, run.seed)
    # where it is not set, replies are filled up with end tokens, which `ended` would count
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    # or else TRL would take the base model, without the SFT adapters, as the reference
    if s.lora and start:
        policy.load_adapter(start, adapter_name="ref")
    # an interrupted run starts over, so nobody reads the optimiser's state
    arguments = trainer.arguments(run, len(prompts)) | {"save_only_model": True}
    ppo = trainer_class()(
        args=PPOConfig(
            **arguments,
            # PPOTrainer takes its number of updates from here and not from max_steps
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
            ref_adapter_name="ref" if s.lora and start else None,
        ),
        model=policy,
        # with LoRA the adapter `ref` is the reference, or the base model where there is none;
        # without, TRL copies the policy as it is now
        ref_model=None,
        reward_model=scorer,
        # a copy, since it is trained and the reward model must not move
        value_model=trainable(copy.deepcopy(scorer), s.lora),
        train_dataset=prompts,
        # TRL builds a loader over it in any case; nothing is generated from it
        eval_dataset=prompts.select(range(1)),
        processing_class=tokenizer,
    )
    if start:
        check_reference(policy if s.lora else ppo.ref_model, start)
    # the check draws rollouts; random numbers go on after it as if it had not
    with torch.random.fork_rng():
        ppo.details = {"first_ratio": first_ratio(ppo)}
    return ppo


def _prompts(run: Run, tokenizer):
    """The pairs' prompts as `input_ids`.

    Those that leave no room for a rollout within `max_length` are left out.
    """
    from vd.training import rollouts

    s, prompts = run.settings, rollouts.prompts(run, tokenizer).select_columns(["input_ids"])
    # TRL drops a batch that is not full, and without any would look for one for ever
    if len(prompts) < s.batch_size:
        raise ValueError(
            f"{run.id}: {len(prompts)} prompts leave room for response_length within max_length, "
            f"fewer than batch_size {s.batch_size}; lower batch_size or response_length, or raise "
            "max_length"
        )
    return prompts
