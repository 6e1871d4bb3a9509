"""A first look at what checkpoints say, before all of them are asked: a few probes, one reply each.

The random numbers are those of vd/probing/probe.py, so the study's replies to these probes are the
same, but for the rounding of logits in other batches.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from vd.data.probes import few_probes, load_probes
from vd.probing.responders import load_responder
from vd.store.shown import excerpt, whole
from vd.study.load import Study
from vd.study.runs import Run


def replies(study: Study, run: Run, checkpoints: Sequence[Path], n: int = 3) -> pd.DataFrame:
    """What these checkpoints of a run reply to `n` of its study's `few_probes`: checkpoint,
    prompt_id, prompt, response.
    """
    asked = load_probes(study.probing)
    asked = asked[asked["prompt_id"].isin(few_probes(asked, n))]
    once = study.probing.model_copy(update={"samples": 1})
    parts = [
        load_responder(run.model_settings, folder)
        .respond(asked, once, run.seed)
        .assign(checkpoint=folder.name)
        for folder in checkpoints
    ]
    return pd.concat(parts, ignore_index=True)[["checkpoint", "prompt_id", "prompt", "response"]]


def told(said: pd.DataFrame, of_others: bool = False) -> str:
    """These replies as text, each under its prompt; of prompts of others only the beginning."""
    lines = []
    for prompt, rows in said.groupby("prompt", sort=False):
        lines.append(excerpt(prompt) if of_others else prompt)
        lines += [whole(row.response, f"  {row.checkpoint}") for row in rows.itertuples()]
    return "\n".join(lines)
