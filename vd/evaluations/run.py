"""Evaluate the checkpoints of a run by all that its study names under `evaluations:`.

An evaluation is a file in vd/evaluations/metrics/ with these names:

    class Settings(EvaluationSettings)     the keys a study may write for it, with defaults
    def evaluate(responder, replies, settings, study, run) -> DataFrame
                                           one checkpoint in, rows (metric, value, lo, hi, n) out

`responder` answers as the checkpoint does (vd/probing/responders.py), or is None for an evaluation
whose Settings say `asks_model = False`: then no weights are loaded for it. `replies` are the
checkpoint's own to the probes, columns of `vd.probing.sampling.COLUMNS`. `n` counts what an
interval was drawn over; it is 0, with no value, where nothing could be measured. Neither learns
which method made the checkpoint.
"""

import shutil

import pandas as pd

from vd import paths, plugins
from vd.evaluations.intervals import MEASURED
from vd.finite import NotFiniteError
from vd.probing.responders import load_responder
from vd.store import files
from vd.store.progress import Progress
from vd.study.load import Study
from vd.study.runs import Run
from vd.study.settings import EvaluationSettings

ROOM = "evaluations.metrics"
COLUMNS = ["run", "step", "evaluation", *MEASURED]


def evaluate_run(
    study: Study, run: Run, wanted: dict[str, EvaluationSettings] | None = None
) -> pd.DataFrame:
    """Evaluations of a run's checkpoints, written to evaluations.csv; columns in `COLUMNS`.

    `wanted` holds the settings of each evaluation by name, those that the study asks of the run if
    left out. Step 0 of a run with a parent is its parent's last checkpoint, whose rows are taken
    over where it is evaluated as well. Raises FileNotFoundError if the run is not probed yet, or a
    parent not evaluated that should be.
    """
    of_parent = {}
    if run.parent:
        parent = study.runs()[run.parent]
        of_parent = study.evaluation_settings(parent) if wanted is None else wanted
    wanted = study.evaluation_settings(run) if wanted is None else wanted
    shared = {n: own for n, own in wanted.items() if n in of_parent and not own.from_start}
    replies = pd.read_parquet(_there(paths.responses(study.name, run.id), "probe the run"))
    plan = _plan(sorted(replies["step"].unique()), wanted, shared)
    # what an evaluation asked that is no longer wanted, or at a step that is no longer probed
    shutil.rmtree(paths.run(study.name, run.id, "asked"), ignore_errors=True)
    progress = Progress("evaluate", run.id, len(plan))
    parts = [_taken_over(study, run, shared)] if shared else []
    for done, (step, names) in enumerate(plan.items(), start=1):
        own = {name: wanted[name] for name in names}
        parts.append(_checkpoint(study, run, step, replies[replies["step"] == step], own))
        progress(done)
    # a study may ask for no evaluation, and pandas joins no empty list
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    table = table.assign(run=run.id)[COLUMNS]
    files.write_table(table, paths.evaluations(study.name, run.id))
    return table


def _plan(steps: list[int], wanted: dict, shared: dict) -> dict[int, list[str]]:
    """Names of the evaluations of each checkpoint that the run has to evaluate itself."""
    # the ends of what was probed, which may be less than what was trained
    asked = {
        name: {steps[0], steps[-1]} if settings.checkpoints == "ends" else set(steps)
        for name, settings in wanted.items()
    }
    plan = {
        step: [n for n in wanted if step in asked[n] and not (step == 0 and n in shared)]
        for step in steps
    }
    return {step: names for step, names in plan.items() if names}


def _taken_over(study: Study, run: Run, wanted: dict) -> pd.DataFrame:
    """The rows of the parent's last checkpoint as this run's step 0."""
    file = _there(paths.evaluations(study.name, run.parent), f"evaluate {run.parent}")
    parent = pd.read_csv(file)
    last = parent[parent["step"] == parent["step"].max()].assign(step=0)
    # the parent was evaluated before the study named this one
    if missing := sorted(set(wanted) - set(last["evaluation"])):
        raise ValueError(f"{file}: no evaluation '{missing[0]}'; evaluate {run.parent} again")
    return last[last["evaluation"].isin(wanted)]


def _checkpoint(
    study: Study, run: Run, step: int, replies: pd.DataFrame, wanted: dict
) -> pd.DataFrame:
    """Rows of one checkpoint."""
    responder, parts = None, []
    # once for all evaluations, and not where replies suffice
    if any(settings.asks_model for settings in wanted.values()):
        folder = None if run.is_base else paths.checkpoint(study.name, run.id, step)
        responder = load_responder(run.model_settings, folder)
    for name, settings in wanted.items():
        module = plugins.load(ROOM, name)
        try:
            found = module.evaluate(responder, replies, settings, study, run)
        # what broke is known below, which checkpoint it was only here
        except NotFiniteError as error:
            raise NotFiniteError(f"{run.id}, step {step}: {error.what}", error.fix) from None
        if missing := [column for column in MEASURED if column not in found]:
            fix = "return a table with metric, value, lo, hi and n"
            raise ValueError(f"{module.__file__}: evaluate: no column '{missing[0]}'; {fix}")
        parts.append(found.assign(evaluation=name, step=step))
    return pd.concat(parts, ignore_index=True)


def _there(file, fix: str):
    """A file that has to be there; FileNotFoundError with the fix if it is not."""
    if not file.exists():
        raise FileNotFoundError(f"{file}: not there; {fix} first")
    return file
