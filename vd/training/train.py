"""Training methods, one file each, found by the name that a study writes after `method:`.

A method is a module with these names:

    class Settings(TrainingSettings or PreferenceSettings)     the keys a study may write for it,
    with defaults
    def train(run: Run) -> list[Path]                          run in, checkpoint folders out
    CURVES                                                     columns of metrics.csv to draw
    (preference methods)

`vd.methods.trainer` does what all TRL-based methods share; `vd.methods.reward` trains reward
models. Nothing after training knows which method made a checkpoint.
"""

import importlib
from pathlib import Path

from vd.study.runs import Run


def train_run(run: Run) -> list[Path]:
    """Train a run by its method and return its checkpoint folders, step 0 first."""
    return importlib.import_module(f"vd.methods.{run.method}").train(run)
