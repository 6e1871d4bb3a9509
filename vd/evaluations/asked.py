"""Replies of a checkpoint to an evaluation's own prompts, kept beside those to the probes."""

from pathlib import Path

import pandas as pd

from vd import paths
from vd.probing.sampling import COLUMNS
from vd.store import files
from vd.study.load import Study
from vd.study.runs import Run


def ask(
    name: str,
    responder,
    prompts: pd.DataFrame,
    step: int,
    study: Study,
    run: Run,
    samples: int = 1,
) -> pd.DataFrame:
    """What a checkpoint replies to prompts (prompt_id, topic, prompt), asked as the study's probes
    are: columns of `vd.probing.sampling.COLUMNS`, written to `paths.asked`.
    """
    how = study.probing.model_copy(update={"samples": samples})
    said = responder.respond(prompts, how, run.seed).assign(run=run.id, step=step)[COLUMNS]
    files.write_table(said, paths.asked(study.name, run.id, name, step))
    return said


def step_of(replies: pd.DataFrame) -> int:
    """The step of the checkpoint that gave these replies to the probes."""
    return int(replies["step"].iloc[0])


def of_our_prompts(study: Study) -> list[Path]:
    """Those files of a study that quote nobody: a mirror's requests are not ours to pass on."""
    folders = [paths.run(study.name, run) / "asked" for run in study.policies()]
    names = ("quality", "questions", "diversity", "rewriting")
    return [
        file for folder in folders for name in names for file in folder.glob(f"{name}-*.parquet")
    ]
