"""What is said during training; numbers that are none end it at their step."""

from pathlib import Path

import torch
from transformers import TrainerCallback

from vd.finite import NotFiniteError, finite
from vd.store.progress import Progress
from vd.study.runs import Run
from vd.training import processes
from vd.training.checkpoints import lighten, slim

FIX = "lower learning_rate, raise warmup_steps, or write dtype: float32"


class Report(TrainerCallback):
    """Progress after every step; numbers that are no numbers end the training at their step."""

    def __init__(self, run: Run, steps: int):
        self.run_id, self.save_at = run.id, set(run.settings.save_at or ())
        self.progress = Progress("train", run.id, steps)
        self.dtype = getattr(torch, run.model_settings.dtype)

    def on_train_begin(self, args, state, control, **kwargs):
        # steps of before took none of this time, from which the time left is told
        self.progress.resume(state.global_step)

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        # before the step, which is not counted yet, so the weights are still sound
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self._check(state.global_step + 1, "loss or gradient", gradients)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        # PPO has a loop of its own, which calls this hook and not the one before a step
        weights = [p.detach() for p in model.parameters() if p.requires_grad]
        self._check(state.global_step, "updated weight", weights)
        if state.global_step in self.save_at:
            control.should_save = True
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        # the summary at the end of a training is logged as well, and has no loss
        if logs and "loss" in logs:
            for name, value in logs.items():
                finite(float(value), f"{self.run_id}, step {state.global_step}: {name}", FIX)
            if processes.first():
                self.progress(state.global_step, f"loss {float(logs['loss']):.3f}")

    def on_save(self, args, state, control, **kwargs):
        """Keep what resuming needs, twice the size of a model, of the last two checkpoints."""
        # two, since a kill may leave the newer one half-written (see checkpoints.last_whole)
        if not processes.first():
            return
        found = sorted(Path(args.output_dir).glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
        for checkpoint in found[:-2]:
            slim(checkpoint)
            lighten(checkpoint, self.dtype)

    def _check(self, step: int, what: str, tensors: list[torch.Tensor]) -> None:
        whole = torch.stack([tensor.isfinite().all() for tensor in tensors])  # one wait for the GPU
        if not whole.all():
            raise NotFiniteError(f"{self.run_id}, step {step}: a {what}", FIX)
