"""The one call that trains any run, by its method: a file of vd/methods.

What such a file holds: vd/study/methods.py.
"""

from pathlib import Path

from vd import plugins
from vd.study.runs import Run
from vd.training import processes


def train_run(run: Run) -> list[Path]:
    """Train a run by its method and return its checkpoint folders, step 0 first.

    In this process, or in several others where the run says so.
    """
    if run.training and processes.needed(run):
        return processes.start(run)
    return plugins.load("methods", run.method).train(run)
