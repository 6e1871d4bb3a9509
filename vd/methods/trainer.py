"""What TRL-based methods share: configuration, checkpoints from step 0, resuming, metrics and the training record.

Interrupted runs go on from their last whole checkpoint; a run whose settings, data or parent changed starts anew.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import torch
from transformers import PrinterCallback, TrainerCallback

from vd import paths, record
from vd.study import Run, StudyError

KEEP = ("*.safetensors", "config.json", "adapter_config.json", "generation_config.json")


def start_of(run: Run) -> Path | None:
    """The checkpoint a run starts from: its parent's last one, or None for the base model."""
    return paths.last_checkpoint(run.study, run.parent)


def arguments(run: Run) -> dict:
    """Keyword arguments that every TRL config takes, from the run's settings."""
    s = run.settings
    device_batch = s.device_batch_size or s.batch_size
    if s.batch_size % device_batch:
        raise StudyError(
            f"{paths.config(run.study)}: {run.phase}.{run.name}.device_batch_size: {device_batch} does not "
            f"divide batch_size {s.batch_size}"
        )
    return dict(
        output_dir=str(paths.checkpoints(run.study, run.id)),
        max_steps=s.steps,
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=s.batch_size // device_batch,
        learning_rate=s.learning_rate,
        lr_scheduler_type=s.schedule,
        warmup_steps=s.warmup_steps,
        weight_decay=s.weight_decay,
        max_length=s.max_length,
        save_strategy="steps",
        save_steps=s.save_every,
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


def fit(run: Run, trainer) -> list[Path]:
    """Train with checkpoints at step 0, every `save_every` steps and the end; write metrics.csv and train.json."""
    folder, timer = paths.checkpoints(run.study, run.id), record.Timer()
    last = _resumable(run, trainer)
    if last is None:
        trainer.save_model(str(folder / "checkpoint-0"))
    trainer.add_callback(_Report(run))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(last) if last else None)

    steps = paths.steps(run.study, run.id)
    for step in steps:  # ascending: were this cut short, the last checkpoint could still be resumed from
        _slim(folder / f"checkpoint-{step}")
    history = [row for row in trainer.state.log_history if "loss" in row]
    record.write_table(
        pd.DataFrame(history).rename(columns={"num_tokens": "tokens_seen"}), paths.metrics(run.study, run.id)
    )
    record.write_json(
        {
            "run": run.model_dump(),
            "effective_batch_size": run.settings.batch_size,
            "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "checkpoints": steps,
            "resumed_from_step": int(last.name.partition("-")[2]) if last else 0,
            "wall_seconds": {"train": timer.seconds},
            "tokens_seen": int(history[-1].get("num_tokens", 0)),
            **record.provenance(),
        },
        paths.record(run.study, run.id, "train"),
    )
    return [folder / f"checkpoint-{step}" for step in steps]


def _resumable(run: Run, trainer) -> Path | None:
    """The last whole checkpoint of an interrupted run with the same settings, data and start; else an empty folder."""
    folder = paths.checkpoints(run.study, run.id)
    start = start_of(run)
    weights = [hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(start.glob("*.safetensors"))] if start else []
    mark = json.dumps([run.model_dump(), trainer.train_dataset._fingerprint, weights], sort_keys=True)
    marker = folder / "resume.json"
    whole = [
        step
        for step in paths.steps(run.study, run.id)
        if (folder / f"checkpoint-{step}" / "trainer_state.json").exists()
    ]  # written last
    if whole and marker.exists() and marker.read_text() == mark:
        for step in paths.steps(run.study, run.id):
            if step > whole[-1]:
                shutil.rmtree(folder / f"checkpoint-{step}")
        return folder / f"checkpoint-{whole[-1]}"
    shutil.rmtree(folder, ignore_errors=True)
    record.write_text(mark, marker)
    return None


def _slim(checkpoint: Path) -> None:
    """Leave weights and their configuration; optimiser state and the frozen reference adapter are not needed again."""
    kept = {file for pattern in KEEP for file in checkpoint.glob(pattern)}
    for entry in checkpoint.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry not in kept:
            entry.unlink()


class _Report(TrainerCallback):
    """Progress after every step."""

    def __init__(self, run: Run):
        self.progress = record.Progress("train", run.id, run.settings.steps)

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress.resume(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.progress(state.global_step, f"loss {float(logs['loss']):.3f}")
