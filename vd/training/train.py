"""The one call that trains any run, by its method: a file of vd/methods.

What such a file holds: vd/study/methods.py.
"""

from pathlib import Path

from vd import plugins
from vd.study.runs import Run


def train_run(run: Run) -> list[Path]:
    """Train a run by its method and return its checkpoint folders, step 0 first."""
    return plugins.load("methods", run.method).train(run)
