"""What methods share that compare several replies to one prompt, which the policy writes while it
trains: GRPO and RLOO.

Rewards come from a scorer of the study, by the ids of what was written. Replies are generated here,
or by a vLLM server (`trl vllm-serve --model START`, in an environment of its own, on GPUs of its
own), which `vllm_server` names.
"""

import contextlib
import io

from pydantic import Field, PositiveFloat, field_validator

from vd.models import loading
from vd.study.runs import Run
from vd.study.settings import RolloutSettings
from vd.study.types import Count


class OnlineSettings(RolloutSettings):
    """Keys of both; a batch is that many replies."""

    processes: Count = 1
    generations: int = Field(4, ge=2)  # replies to one prompt; they are each other's baseline
    beta: float = Field(0.05, ge=0)  # weight of the divergence from the start
    cliprange: float = Field(0.2, gt=0, lt=1)
    iterations: Count = 1  # optimiser steps on one batch
    missing_eos_penalty: PositiveFloat | None = None
    scorer: str  # a run of the section scorers, which gives replies their reward
    vllm_server: str | None = Field(None, pattern=r"^https?://\S+$")

    @field_validator("generations")
    @classmethod
    def _divides(cls, generations: int, others) -> int:
        batch = others.data.get("batch_size")  # if it was refused, that is reported by itself
        if batch and batch % generations:
            raise ValueError(f"must divide batch_size {batch}")
        return generations


def build(run: Run, trainer_class, config_class, **own):
    """A trainer of TRL for a run, before its first step, its reference checked."""
    from vd.training import rollouts, trainer
    from vd.training.reference import check_reference

    s, start = run.settings, trainer.start_of(run)
    tokenizer = loading.load_tokenizer(run.model_settings)
    tokenizer.padding_side = "left"
    prompts = rollouts.prompts(run, tokenizer).select_columns(["prompt"])
    served = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": s.vllm_server}
    arguments = trainer.arguments(run, len(prompts)) | {
        "num_generations": s.generations,
        "max_completion_length": s.response_length,
        "temperature": s.temperature,
        "beta": s.beta,
        "epsilon": s.cliprange,
        "num_iterations": s.iterations,
        "log_completions": False,
        **(served if s.vllm_server else {}),
        **own,
    }
    policy = loading.for_training(run.model_settings, s.lora, start, run.seed)
    # TRL prints tables of what was written
    with contextlib.redirect_stdout(io.StringIO()):
        made = trainer_class(
            model=policy,
            reward_funcs=reward(run, tokenizer),
            args=config_class(**arguments),
            train_dataset=prompts,
            processing_class=tokenizer,
        )
    if start and s.beta:
        of_policy = made.ref_model is None
        check_reference(made.model if of_policy else made.ref_model, start)
    return made


def reward(run: Run, tokenizer):
    """The function that TRL asks for the rewards of what was written."""
    from vd.training import rollouts, scorers, trainer

    model = None

    def score(prompts, completions, completion_ids, **kwargs) -> list[float]:
        nonlocal model
        if model is None:  # once the trainer has chosen its device
            model = scorers.load(run.study, run.scorer, tokenizer)
        told = [{"role": "assistant", "content": "."}]  # the prompt's ids are the same with any
        asked = [trainer.encode(tokenizer, prompt, told)[0] for prompt in prompts]
        return rollouts.rewards(run, model, tokenizer, asked, completion_ids)

    return score
