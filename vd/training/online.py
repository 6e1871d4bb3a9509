"""What methods share that compare several replies to one prompt, which the policy writes while it
trains: GRPO and RLOO.

Rewards come from a scorer of the study, by the ids of what was written, or from a file of
vd/rewards, by its text. Replies are generated here, or by a vLLM server (`trl vllm-serve --model
START`, in an environment of its own, on GPUs of its own), which `vllm_server` names.
"""

import contextlib
import io

import pandas as pd
from pydantic import Field, PositiveFloat, field_validator, model_validator
from pydantic_core import PydanticCustomError

from vd.finite import finite
from vd.models import loading
from vd.study import rewards
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
    scorer: str | None = None  # a run of the section scorers, which gives replies their reward,
    reward: dict[str, dict] | None = None  # or a reward by its name with its keys, vd/rewards
    vllm_server: str | None = Field(None, pattern=r"^https?://\S+$")

    @field_validator("reward")
    @classmethod
    def _known(cls, reward: dict | None) -> dict | None:
        if reward is not None:
            rewards.settings_of(reward)
        return reward

    @model_validator(mode="after")
    def _one_of_both(self):
        if (self.scorer is None) == (self.reward is None):
            raise PydanticCustomError("reward", "write either scorer or reward")
        return self

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
    read = rewards.module_of(s.reward).COLUMNS if s.reward else ()
    prompts = rollouts.prompts(run, tokenizer, read)
    prompts = prompts.select_columns(["prompt", *(f"row_{name}" for name in read)])
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
            reward_funcs=parts(run) if s.reward else reward(run, tokenizer),
            args=config_class(**arguments),
            train_dataset=prompts,
            processing_class=tokenizer,
        )
    if start and s.beta:
        of_policy = made.ref_model is None
        check_reference(made.model if of_policy else made.ref_model, start)
    return made


def reward(run: Run, tokenizer):
    """The function that TRL asks for a scorer's rewards of what was written."""
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


def parts(run: Run) -> list:
    """The functions that TRL asks for the parts of a reward, whose sum counts; each is logged by
    its name.
    """
    named, scorer = run.settings.reward, None
    module, settings = rewards.module_of(named), rewards.settings_of(named)
    known = {"texts": None, "found": None}

    def found(prompts, completions, columns) -> pd.DataFrame:
        nonlocal scorer
        scorer = scorer or module.load(settings)  # once there is something to score
        texts = [turns[-1]["content"] for turns in completions]
        table = pd.DataFrame({"prompt": [turns[-1]["content"] for turns in prompts]})
        table = table.assign(response=texts, **{c: columns[f"row_{c}"] for c in module.COLUMNS})
        # all parts are asked about one batch, one after the other
        if known["texts"] is None or not known["texts"].equals(table):
            scores = scorer(table)
            for name in module.PARTS:
                finite(scores[name].to_numpy(), f"{run.id}: reward {name}", "mend what gives it")
            known.update(texts=table, found=scores)
        return known["found"]

    def part(name: str):
        def score(prompts, completions, completion_ids=None, **columns) -> list[float]:
            return found(prompts, completions, columns)[name].tolist()

        score.__name__ = name
        return score

    return [part(name) for name in module.PARTS]
