"""Proximal policy optimisation on several GPUs, by OpenRLHF 0.11 (github.com/OpenRLHF/OpenRLHF).

The same objective as vd/methods/ppo.py, for models that with critic, reference and optimiser do not
fit one GPU. OpenRLHF wants other versions of our libraries, so it lives in an environment of its
own, where Ray has been started (`ray start --head --num-gpus 8`); VD_OPENRLHF is the command that
runs it there, by default `python -m openrlhf.cli.train_ppo_ray`. It starts from our checkpoint,
asks our reward model over HTTP, and its checkpoints become ours.

What differs from TRL's: the critic starts from the policy and has an optimiser and a rate of its
own, advantages are normalised over a batch, generation is vLLM's, and an interrupted run starts
over.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat

from vd import paths
from vd.models import loading
from vd.store.parents import outside
from vd.study.runs import Run
from vd.study.settings import RolloutSettings
from vd.study.types import Count

READS = "pairs"
MAKES = "policy"
CURVES = ("reward", "kl")
FROZEN, TRAINED, WRITES = 2, 2, True
STATUS = re.compile(r"Global step (\d+): (\{.*\})")  # what it logs after every update


class Settings(RolloutSettings):
    """Keys of such a run; names and defaults are those of `ppo`."""

    gpus: Count = 8  # of one node; all models share them
    lora: Literal[None] = None  # all weights are trained
    save_at: Literal[None] = None  # OpenRLHF keeps every save_every steps and the end
    kl_coef: float = Field(0.05, ge=0)
    ppo_epochs: Count = 4
    cliprange: float = Field(0.2, gt=0, lt=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    critic_learning_rate: PositiveFloat = 9.0e-6  # OpenRLHF's
    missing_eos_penalty: PositiveFloat | None = None
    scorer: str  # a run of the section scorers, which gives replies their reward

    @property
    def devices(self) -> int:
        """GPUs that OpenRLHF takes; the one process here starts it and scores."""
        return self.gpus


def train(run: Run) -> list[Path]:
    """Train the parent checkpoint against the scores of a reward model, in OpenRLHF."""
    from vd.training import trainer

    return trainer.fit(run, build, resumable=False)


def build(run: Run):
    """What `trainer.fit` takes for a trainer of TRL."""
    from accelerate import PartialState

    from vd.training import rollouts, trainer

    tokenizer = loading.load_tokenizer(run.model_settings)
    prompts = rollouts.prompts(run, tokenizer).map(lambda row: _as_read(tokenizer, row))
    policy = loading.for_training(run.model_settings, None, trainer.start_of(run), run.seed)
    return _OpenRLHF(run, policy, tokenizer, prompts, PartialState())


def flags(run: Run, steps: int, place: Path, reward: str) -> dict[str, object]:
    """OpenRLHF's options (0.11.0); True is one without a value."""
    s, n = run.settings, run.settings.gpus
    found = {f"{part}.num_gpus_per_node": n for part in ("ref", "critic", "actor")}
    found |= {f"{part}.num_nodes": 1 for part in ("ref", "critic", "actor")}
    for part, rate in (("actor", s.learning_rate), ("critic", s.critic_learning_rate)):
        found |= {
            f"{part}.adam.lr": rate,
            f"{part}.adam.betas": "0.9 0.999",  # as TRL's
            f"{part}.adam.weight_decay": s.weight_decay,
            f"{part}.lr_scheduler": s.schedule,
            f"{part}.lr_warmup_ratio": s.warmup_steps / steps,
        }
    return found | {
        "actor.model_name_or_path": place / "start",
        "actor.eps_clip": s.cliprange,
        "actor.gradient_checkpointing_enable": s.activation_checkpointing,
        "reward.remote_url": reward,
        "critic.value_clip": s.cliprange,
        "train.colocate_all": True,
        "train.batch_size": s.batch_size,
        "train.micro_batch_size": s.device_batch,
        "train.max_epochs": s.ppo_epochs,
        "train.num_episodes": 1,
        "train.seed": run.seed,
        "rollout.batch_size": s.batch_size,
        "rollout.micro_batch_size": s.device_batch,
        "rollout.n_samples_per_prompt": 1,
        "rollout.temperature": s.temperature,
        "rollout.max_new_tokens": s.response_length,
        "data.prompt_dataset": place / "prompts.jsonl",
        "data.input_key": "input",  # in the template already
        "data.max_len": s.max_length,
        "data.max_samples": steps * s.batch_size,
        "algo.advantage.estimator": "gae",
        "algo.advantage.gamma": 1.0,
        "algo.advantage.lambd": s.gae_lambda,
        "algo.kl.init_coef": s.kl_coef,
        "algo.kl.estimator": "k1",
        "ckpt.path": place / "checkpoints",
        "ckpt.output_dir": place / "end",
        "ckpt.save_hf": True,
        "ckpt.disable_ds": True,
        "ckpt.save_steps": s.save_every,
        "ckpt.max_num": 10**6,
        "ds.zero_stage": 3,
        "ds.param_dtype": "bf16",
        "vllm.num_engines": n,
        "vllm.tensor_parallel_size": 1,
        "vllm.gpu_memory_utilization": 0.5,
        "vllm.enable_sleep": True,
        "ds.enable_sleep": True,
    }


def _as_read(tokenizer, row: dict) -> dict:
    """A prompt in the template."""
    how = {"tokenize": False, "add_generation_prompt": True}
    return {"input": tokenizer.apply_chat_template(row["prompt"], **how)}


class _OpenRLHF:
    """A training elsewhere, with what `trainer.fit` asks of one here."""

    def __init__(self, run: Run, policy, tokenizer, prompts, accelerator):
        self.run, self.model, self.processing_class = run, policy, tokenizer
        self.train_dataset, self.accelerator = prompts, accelerator
        self.args, self.state = SimpleNamespace(max_steps=0), SimpleNamespace(log_history=[])
        self.place = paths.run(run.study, run.id) / "openrlhf"

    def add_callback(self, callback) -> None:
        """Nothing is called back from another environment."""

    remove_callback = add_callback

    def save_model(self, folder: str) -> None:
        """The weights that it starts from."""
        self.model.save_pretrained(folder)

    def train(self) -> None:
        """Run OpenRLHF and take its checkpoints over; RuntimeError where it fails."""
        from vd.training.rewards import serving

        run, steps, log = self.run, self.args.max_steps, self.place / "openrlhf.log"
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.save_model(str(self.place / "start"))
        self.processing_class.save_pretrained(self.place / "start")
        self._write_prompts(steps * run.settings.batch_size)
        words = shlex.split(os.environ.get("VD_OPENRLHF") or "python -m openrlhf.cli.train_ppo_ray")
        with (
            serving(run, self.processing_class) as rewards,
            open(log, "w", encoding="utf-8") as told,
        ):
            for name, value in flags(run, steps, self.place, rewards.url).items():
                words += _words(name, value)
            try:
                done = subprocess.run(words, env=outside(), stdout=told, stderr=told, check=False)
            except OSError as error:
                fix = "install OpenRLHF in an environment of its own and set VD_OPENRLHF"
                raise RuntimeError(f"{words[0]}: {error.strerror}; {fix}") from None
        if done.returncode:
            raise RuntimeError(f"{run.id}: OpenRLHF ended with status {done.returncode}; see {log}")
        self._take_over(steps)
        self.state.log_history = self._history(log.read_text(encoding="utf-8"), rewards, steps)

    def _write_prompts(self, n: int) -> None:
        """As many prompts as there are rollouts, all of them once before any comes again."""
        rng, texts = np.random.default_rng(self.run.seed), self.train_dataset["input"]
        rounds = [rng.permutation(len(texts)) for _ in range(-(-n // len(texts)))]
        lines = [json.dumps({"input": texts[i]}) for i in np.concatenate(rounds)[:n]]
        (self.place / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _take_over(self, steps: int) -> None:
        """Its checkpoints under our names."""
        every = self.run.settings.save_every
        found = {
            n: self.place / "checkpoints" / f"global_step{n}_hf" for n in range(every, steps, every)
        }
        for step, folder in (found | {steps: self.place / "end"}).items():
            if not list(folder.glob("*.safetensors")):
                raise RuntimeError(
                    f"{folder}: no weights, where OpenRLHF should have saved step {step}"
                )
            there = paths.checkpoint(self.run.study, self.run.id, step)
            shutil.rmtree(there, ignore_errors=True)
            shutil.move(folder, there)
        shutil.rmtree(self.place / "start")

    def _history(self, log: str, rewards, steps: int) -> list[dict]:
        """A row per update: what OpenRLHF logged, and the rewards that it was given."""
        logged = {int(n): ast.literal_eval(said) for n, said in STATUS.findall(log)}
        rows, size = [], self.run.settings.batch_size
        for step in range(1, steps + 1):
            own, given = logged.get(step, {}), rewards.given[(step - 1) * size : step * size]
            scores = [score for score, _ in given]
            rows.append(
                {
                    "step": step,
                    "loss": float(own.get("policy_loss", np.nan)),
                    "kl": float(own.get("kl", np.nan)),
                    "reward": float(np.mean(scores)) if scores else np.nan,
                    "num_tokens": sum(n for _, n in rewards.given[: step * size]),
                }
            )
        return rows


def _words(name: str, value) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return (
        [f"--{name}", *str(value).split(" ")]
        if name.endswith("betas")
        else [f"--{name}", str(value)]
    )
