"""Rows that no run of a study trains on."""

import json

import numpy as np
import pandas as pd

from vd.data import sets
from vd.data.rows import TEXTS
from vd.study.load import Study
from vd.study.settings import PreferenceSettings, TrainingSettings


def sft_sets(study: Study) -> dict[str, TrainingSettings]:
    """Data sets of the study's supervised runs by name, with the settings of the first such run;
    `max_length` is the longest of all.
    """
    found = {}
    for settings in _trained(study).values():
        if not isinstance(settings, PreferenceSettings):
            before = found.get(settings.data, settings)
            longest = max(before.max_length, settings.max_length)
            found[settings.data] = before.model_copy(update={"max_length": longest})
    return found


def held_out(study: Study, name: str, rows: int, seed: int = 0) -> pd.DataFrame:
    """At most `rows` rows of one of `sft_sets`, drawn by `seed`, that no run trains on.

    Runs of all seeds count, and all data sets: a row is trained on if its prompt, with its history
    and reply, is one that any run learns from, be it as a completion or in a pair. The table is
    empty where runs take all rows. The draw depends on the study alone, so all its checkpoints are
    measured on the same rows.
    """
    # all that any run learns from, and how many rows of this set the runs may take together
    taken, asked = set(), 0
    for (_, run_seed), settings in _trained(study).items():
        taken |= {mark for marks in _marks(sets.draw_rows(settings, run_seed)) for mark in marks}
        if settings.data == name:
            # large sets are streamed: as many rows as runs could take, and ours beyond them
            # None takes the whole set, and stays once a run asks for it
            asked = None if None in (asked, settings.examples) else asked + settings.examples
    table = sets.corpus(
        name, sft_sets(study)[name].filters, None if asked is None else asked + rows, seed
    )
    table = table[table["completion"].notna()]
    free = np.array([not taken.intersection(marks) for marks in _marks(table)], dtype=bool)
    table = table[free]
    # permuted whole and then cut: fewer rows are the first of more
    return table.iloc[np.random.default_rng(seed).permutation(len(table))[:rows]]


def _trained(study: Study) -> dict[tuple[str, int], TrainingSettings]:
    """Settings of all runs that train on data, once for each draw of rows: by data and seed."""
    found = {}
    for run in study.runs().values():
        if getattr(run.settings, "data", None):
            drawn = run.settings.model_dump(include={"data", "filters", "examples"})
            pairs = isinstance(run.settings, PreferenceSettings)
            # kind and max_length change no draw; `sft_sets` asks for them
            found[json.dumps([drawn, pairs, run.settings.max_length]), run.seed] = run.settings
    return found


def _marks(table: pd.DataFrame) -> list[list[str]]:
    """For each row what is learned from it: history, prompt and each of its replies."""
    # as JSON, since a history is a list, and sets hold none
    replies = [column for column in TEXTS if column != "prompt" and column in table]
    return [
        [json.dumps([row.get("history") or [], row["prompt"], row[c]]) for c in replies]
        for row in table.to_dict("records")
    ]
