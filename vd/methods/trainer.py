"""What TRL-based methods share: configuration, tokens, checkpoints from step 0, resuming, metrics and the record.

Interrupted runs go on from their last whole checkpoint where the trainer can; a run whose settings, data or parent
changed starts anew.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback, TrainerState

from vd import data, models, paths, record
from vd.study import Optimisation, Run

KEEP = ("*.safetensors", "config.json", "adapter_config.json", "generation_config.json")


def start_of(run: Run) -> Path | None:
    """The checkpoint a run starts from: its parent's last one, or None for the base model."""
    start = paths.last_checkpoint(run.study, run.parent)
    if start and not paths.record(run.study, run.parent, "train").exists():
        raise FileNotFoundError(f"{start.parent}: {run.parent} is not trained to its end; train it first")
    return start


def arguments(run: Run, n_examples: int, optimisation: Optimisation | None = None) -> dict:
    """Keyword arguments that every TRL config takes, from the run's settings and the size of its data set.

    `optimisation` stands in for the run's own where another model is trained on the way, such as a reward model.
    """
    s = optimisation or run.settings
    device_batch = s.device_batch_size or s.batch_size
    return dict(
        output_dir=str(paths.checkpoints(run.study, run.id)),
        max_steps=s.total_steps(n_examples),
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=s.batch_size // device_batch,
        learning_rate=s.learning_rate,
        lr_scheduler_type=s.schedule,
        warmup_steps=s.warmup_steps,
        weight_decay=s.weight_decay,
        save_strategy="steps",
        save_steps=run.settings.save_every,
        logging_steps=1,
        bf16=run.model_settings.dtype == "bfloat16",
        activation_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),  # on Apple MPS runs do not repeat, so it is left out
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=run.seed,
        data_seed=run.seed,
        report_to="none",
        disable_tqdm=True,
    )


def encode(tokenizer, prompt: list[dict], reply: list[dict]) -> tuple[list[int], list[int]]:
    """Tokens of a prompt and of the reply to it, both in the chat template; the reply ends with one end token.

    A template may write more after the end token (a newline, say). A model that generates stops before that, so a
    score or a likelihood must not depend on it.
    """
    before = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(prompt + reply, tokenize=False)
    if not whole.startswith(before):
        raise ValueError(
            "this chat template changes the prompt when a reply follows, so a reply's tokens are not known"
        )
    tokens = tokenizer(whole.removeprefix(before), add_special_tokens=False)["input_ids"]
    end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else len(tokens)
    return tokenizer(before, add_special_tokens=False)["input_ids"], [*tokens[:end], tokenizer.eos_token_id]


def fit(run: Run, build: Callable[[Run], object], resumable: bool = True) -> list[Path]:
    """Train with checkpoints at step 0, every `save_every` steps and the end; write metrics.csv and train.json.

    `build` makes the TRL trainer; its attribute `details`, if there is one, is kept in train.json. A run that is
    finished already, with the same settings, data, start and code, is left as it is.
    """
    if torch.cuda.device_count() > 1:
        raise RuntimeError("several GPUs would multiply the batch size; set CUDA_VISIBLE_DEVICES to one of them")
    folder, timer = paths.checkpoints(run.study, run.id), record.Timer()
    mark, marker = _mark(run), folder / "resume.json"
    same = marker.exists() and marker.read_text() == mark
    if not (same and paths.record(run.study, run.id, "train").exists()):
        for stale in (paths.record(run.study, run.id, "train"), paths.metrics(run.study, run.id)):
            stale.unlink(missing_ok=True)
        trainer = build(run)
        last = _last_whole(folder) if same and resumable else None
        if last is None:
            shutil.rmtree(folder, ignore_errors=True)
            trainer.save_model(str(folder / "checkpoint-0"))
            record.write_text(mark, marker)
        _train(run, trainer, last)
        _finish(run, trainer, timer, last)
    return [folder / f"checkpoint-{step}" for step in paths.steps(run.study, run.id)]


def check_reference(model, start: Path, adapter: str = "ref") -> None:
    """Raise RuntimeError unless a reference model, or this adapter of a model, holds the SFT checkpoint's weights."""
    stored = {name: weight for file in start.glob("*.safetensors") for name, weight in load_file(file).items()}
    named = dict(model.named_parameters())
    adapters = {n.replace(f".{adapter}.", "."): w for n, w in named.items() if f".{adapter}." in n}
    reference = adapters or {n: w for n, w in named.items() if n in stored}
    if not reference or any(not stored[n].to(w.dtype).equal(w.detach().cpu()) for n, w in reference.items()):
        raise RuntimeError(f"the reference model is not the SFT checkpoint {start}; TRL's handling of it changed")


def _train(run: Run, trainer, last: Path | None) -> None:
    trainer.add_callback(Report(run, trainer.args.max_steps))
    trainer.remove_callback(PrinterCallback)
    if last is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    trainer._total_train_tokens = state.log_history[-1]["num_tokens"]  # TRL would count from 0 again
    if state.global_step == trainer.args.max_steps:  # stopped between the last step and the record
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(last))


def _finish(run: Run, trainer, timer: record.Timer, resumed: Path | None) -> None:
    """Slim the checkpoints, write metrics.csv and, last of all, train.json."""
    steps = paths.steps(run.study, run.id)
    for step in steps:  # ascending: were this cut short, the last checkpoint could still be resumed from
        _slim(paths.checkpoint(run.study, run.id, step))
    history = [row for row in trainer.state.log_history if "loss" in row]
    metrics = pd.DataFrame(history).rename(columns={"num_tokens": "tokens_seen"})
    record.write_table(metrics, paths.metrics(run.study, run.id))
    content = {
        "run": run.model_dump(),
        "effective_batch_size": run.settings.batch_size,
        "data": data.origin(run.settings.data),
        "model_revision": models.revision(run.model_settings),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "checkpoints": steps,
        "resumed_from_step": int(resumed.name.partition("-")[2]) if resumed else 0,
        "wall_seconds": {"train": timer.seconds},
        "tokens_seen": int(history[-1]["num_tokens"]),
        "details": getattr(trainer, "details", {}),
        **record.provenance(),
    }
    record.write_json(content, paths.record(run.study, run.id, "train"))


def _mark(run: Run) -> str:
    """What a checkpoint depends on: settings, data, the weights it started from and the code that trains."""
    start = start_of(run)
    files = sorted(start.glob("*.safetensors")) if start else []
    code = ["models.py", "methods/trainer.py", f"methods/{run.method}.py"]
    code += ["methods/reward.py"] if hasattr(run.settings, "reward") else []
    files += [paths.ROOT / "vd" / name for name in code]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    rows = data.sft(run.settings, run.seed) if run.phase == "sft" else data.preferences(run.settings, run.seed)
    hashes.append(hashlib.sha256(json.dumps(rows[:]).encode()).hexdigest())
    return json.dumps([run.model_dump(), hashes], sort_keys=True)


def _last_whole(folder: Path) -> Path | None:
    """The last checkpoint that an interrupted run can go on from; later, half-written ones are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    whole = [path for path in found if (path / "trainer_state.json").exists()]  # which is written last
    for path in found[found.index(whole[-1]) + 1 :] if whole else []:
        shutil.rmtree(path)
    return whole[-1] if whole else None


def _slim(checkpoint: Path) -> None:
    """Leave weights and their configuration; optimiser state and the frozen reference adapter are not needed again."""
    kept = {file for pattern in KEEP for file in checkpoint.glob(pattern)}
    for entry in checkpoint.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry not in kept:
            entry.unlink()


class Report(TrainerCallback):
    """Progress after every step."""

    def __init__(self, run: Run, steps: int, stage: str = "train"):
        self.progress = record.Progress(stage, run.id, steps)

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress.resume(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.progress(state.global_step, f"loss {float(logs['loss']):.3f}")
