"""What TRL-based methods share: configuration, tokens, checkpoints from step 0, resuming, metrics
and the record.

Interrupted runs go on from their last whole checkpoint where the trainer can; a run whose settings,
data or parent changed starts anew.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformers import PrinterCallback, TrainerState

from vd import paths, plugins
from vd.data import sets
from vd.models import loading, locate
from vd.models.precision import computed_in
from vd.models.weights import equal_weights, weights_digest
from vd.readers.trained import content
from vd.store import fingerprint
from vd.store.cache import MADE
from vd.store.files import read_json, replace, write_json, write_table
from vd.store.fingerprint import Fingerprint
from vd.store.progress import Timer
from vd.store.provenance import provenance
from vd.study import rewards
from vd.study.runs import Run
from vd.study.steps import total_steps
from vd.training import gates, processes, retention
from vd.training.checkpoints import last_whole, lighten, slim
from vd.training.report import Report


def start_of(run: Run) -> Path | None:
    """The checkpoint a run starts from: its parent's last one.

    None for a model as it came: the base model, or one from elsewhere, which the run's model then
    names.
    """
    start = paths.last_checkpoint(run.study, run.parent)
    if start and (about := start / "responder.json").exists():
        # a rewriter or a contrast is several models; none of them alone is what answered
        if read_json(about)["kind"] != "elsewhere":
            why = f"{about}: {run.parent} is more than weights, and {run.id} cannot go on from it"
            raise ValueError(f"{why}; name another parent")
        return None
    if start and not paths.record(run.study, run.parent, "train").exists():
        raise FileNotFoundError(
            f"{start.parent}: {run.parent} is not trained to its end; train it first"
        )
    return start


def arguments(run: Run, n_examples: int) -> dict:
    """Keyword arguments that every TRL config takes, from the run's settings and the size of its
    data set.
    """
    s = run.settings
    several = processes.world()
    # adapters are few, and FSDP wants all weights of a layer in one dtype
    sharded = several > 1 and s.lora is None
    again = s.activation_checkpointing
    return dict(
        output_dir=str(paths.checkpoints(run.study, run.id)),
        max_steps=total_steps(s, n_examples),
        per_device_train_batch_size=s.device_batch,
        # no remainder: settings want the product to divide batch_size
        gradient_accumulation_steps=s.batch_size // (s.device_batch * several),
        learning_rate=s.learning_rate,
        lr_scheduler_type=s.schedule,
        warmup_steps=s.warmup_steps,
        weight_decay=s.weight_decay,
        save_strategy="steps",
        # a scorer keeps its end alone and need not write save_every
        save_steps=s.save_every or total_steps(s, n_examples),
        # metrics.csv has a row per step, and Report checks each
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would write 0 in place of a loss that is no number
        bf16=computed_in(run.model_settings.dtype) is torch.bfloat16,
        # TRL's default is on: less memory, but about 20 % slower
        activation_checkpointing=again and not sharded,
        # of transformers' defaults: version 2, full state dict, a unit per layer
        fsdp=sharded,
        fsdp_config={"activation_checkpointing": again} if sharded else None,
        use_cpu=not torch.cuda.is_available(),  # on Apple MPS runs do not repeat, so it is left out
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=run.seed,
        data_seed=run.seed,
        # not in the study: who watches a run changes nothing in it
        report_to=os.environ.get("VD_REPORT_TO") or "none",
        run_name=f"{run.study}/{run.id}",
        disable_tqdm=True,
    )


def encode(tokenizer, prompt: list[dict], reply: list[dict]) -> tuple[list[int], list[int]]:
    """Tokens of a prompt and of the reply to it, both in the chat template; the reply ends with one
    end token.

    A template may write more after the end token (a newline, say). A model that generates stops
    before that, so a score or a likelihood must not depend on it.
    """
    before = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(prompt + reply, tokenize=False)
    if not whole.startswith(before):
        raise ValueError(
            "this chat template changes the prompt when a reply follows, so a reply's tokens are "
            "not known"
        )
    # apart from the prompt: probing reads that alone, and no token may span the border;
    # templates write the start token themselves, so tokenizers must not add another
    tokens = tokenizer(whole.removeprefix(before), add_special_tokens=False)["input_ids"]
    end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else len(tokens)
    return tokenizer(before, add_special_tokens=False)["input_ids"], [
        *tokens[:end],
        tokenizer.eos_token_id,
    ]


def fit(run: Run, build: Callable[[Run], object], resumable: bool = True) -> list[Path]:
    """Train with checkpoints at step 0, every `save_every` steps and the end; write metrics.csv and
    train.json.

    `build` makes the TRL trainer; its attribute `details`, if there is one, is kept in train.json.
    A run that is finished already, with the same settings, data, start and code, is left as it is.
    """
    folder, timer, rows = paths.checkpoints(run.study, run.id), Timer(), _rows(run)
    asked, made = _asked(run, rows), folder / MADE
    same = not asked.changes(made)
    if not (same and (folder / "train.json").exists()):
        # an old record would let a half-trained run pass for a finished one
        for stale in _published(run):
            stale.unlink(missing_ok=True)
        trainer = build(run)
        # only now: TRL leaves rows out while a trainer is built
        _count_steps(run, trainer)
        gates.check(run, len(rows), trainer.args.max_steps)
        # of several processes one tidies up, once all have seen what was there
        with trainer.accelerator.main_process_first():
            last = last_whole(folder) if same and resumable else None
        if last is None:
            if processes.first():
                shutil.rmtree(folder, ignore_errors=True)
            trainer.accelerator.wait_for_everyone()
            trainer.save_model(str(folder / "checkpoint-0"))
            # once the old checkpoints are gone, for which it must not vouch, and before training,
            # so that a run that is killed can go on
            if processes.first():
                asked.write(made)
        # before training: a scorer is frozen at its end
        parameters = _policy(trainer).parameters()
        trainable = sum(weight.numel() for weight in parameters if weight.requires_grad)
        gates.show_first_batch(run, trainer)
        _train(run, trainer, last)
        if processes.first():
            _finish(run, trainer, timer, last, len(rows), trainable)
    if not processes.first():
        return []
    for step in paths.steps(run.study, run.id):
        # also those of a run that was killed between its record and this line
        slim(paths.checkpoint(run.study, run.id, step))
    for file in _published(run):  # the workflow removes them before it repeats a job
        if not file.exists():
            with replace(file) as part:
                shutil.copyfile(folder / file.name, part)
    retention.push(run)
    return [folder / f"checkpoint-{step}" for step in paths.steps(run.study, run.id)]


def _train(run: Run, trainer, last: Path | None) -> None:
    trainer.add_callback(Report(run, trainer.args.max_steps))
    # transformers adds it where tqdm is off; it would print every row of the log
    trainer.remove_callback(PrinterCallback)
    if last is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    trainer._total_train_tokens = state.log_history[-1][
        "num_tokens"
    ]  # TRL would count from 0 again
    if state.global_step == trainer.args.max_steps:  # stopped between the last step and the record
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(last))


def _count_steps(run: Run, trainer) -> None:
    """Set the steps of an epoch by the rows that train: TRL leaves out those too long for a reply.

    Raises ValueError where none is left, or where `max_length` exceeds what the model can read.
    """
    limit = loading.context(_policy(trainer).config)
    if limit and run.settings.max_length > limit:
        raise ValueError(
            f"{run.id}: max_length {run.settings.max_length} exceeds the {limit} tokens that the "
            "model reads; lower max_length in the study"
        )
    if not len(trainer.train_dataset):
        raise ValueError(
            f"{run.id}: no row of '{run.settings.data}' leaves room for a reply within max_length "
            f"{run.settings.max_length}; raise max_length in the study"
        )
    trainer.args.max_steps = total_steps(run.settings, len(trainer.train_dataset))


def _policy(trainer):
    """The model that is kept: PPO's trainer holds policy and value model in one."""
    return getattr(trainer.model, "policy", trainer.model)


def _finish(
    run: Run, trainer, timer: Timer, resumed: Path | None, n_rows: int, trainable: int
) -> None:
    """Write metrics.csv and, last of all, train.json beside the checkpoints."""
    folder = paths.checkpoints(run.study, run.id)
    # the last row sums up the whole training and is no step
    history = [row for row in trainer.state.log_history if "loss" in row]
    metrics = pd.DataFrame(history).rename(columns={"num_tokens": "tokens_seen"})
    write_table(metrics, folder / "metrics.csv")
    steps = paths.steps(run.study, run.id)
    for step in steps:
        lighten(paths.checkpoint(run.study, run.id, step), getattr(torch, run.model_settings.dtype))
    weights = {step: weights_digest(paths.checkpoint(run.study, run.id, step)) for step in steps}
    trained, held_out = len(trainer.train_dataset), getattr(trainer, "n_held_out", 0)
    content = {
        "run": run.model_dump(),
        "effective_batch_size": run.settings.batch_size,
        "processes": processes.world(),
        "data": sets.origin(run.settings.data),
        "rows": {
            "read": n_rows,
            "trained": trained,
            "too long": n_rows - trained - held_out,
            **({"held out": held_out} if held_out else {}),
        },
        "model_revision": locate.revision(run.model_settings),
        "trainable_parameters": trainable,
        "checkpoints": list(weights),
        "weights": weights,
        "equal_weights": equal_weights(weights),
        "resumed_from_step": int(resumed.name.partition("-")[2]) if resumed else 0,
        "wall_seconds": {"train": timer.seconds},
        "tokens_seen": int(history[-1]["num_tokens"]),
        "details": getattr(trainer, "details", {}),
        **provenance(),
    }
    # last, since fit takes a run with this file for finished
    write_json(content, folder / "train.json")


def _published(run: Run) -> list[Path]:
    """What the rest of the study reads; kept beside the checkpoints as well."""
    return [paths.metrics(run.study, run.id), paths.record(run.study, run.id, "train")]


def _rows(run: Run):
    return sets.READERS[run.reads](run.settings, run.seed)


def _asked(run: Run, rows) -> Fingerprint:
    """What a run's checkpoints are made from: settings, data, starting weights, and their code."""
    start = start_of(run)
    scorer = paths.last_checkpoint(run.study, run.scorer) if run.scorer else None
    weights = {"start": start, "scorer": scorer}
    return Fingerprint(
        **fingerprint.values(run=run),
        data={
            "rows": fingerprint.digest(json.dumps(rows[:])),
            "model": locate.identity(run.model_settings),
            **{
                # by content, so a parent that is trained again to the same weights changes nothing
                f"{what} {file.name}": fingerprint.file_digest(file)
                for what, folder in weights.items()
                for file in sorted(folder.glob("*.safetensors") if folder else [])
            },
            **{f"reward {name}": content(name) for name in rewards.reads(run.settings)},
        },
        code=fingerprint.code(
            f"{plugins.module('methods', run.method)}.train", *rewards.code_of(run.settings)
        ),
    )
