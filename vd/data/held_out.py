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
    table = sets.as_texts(_read(study, name, sft_sets(study)[name].filters, rows, seed))
    return _drawn(study, table[table["completion"].notna()], rows, seed)


def pairs(study: Study, name: str, rows: int, seed: int = 0) -> pd.DataFrame:
    """At most `rows` pairs of any data set of pairs, drawn by `seed`, of which no run trains on
    either reply; as `held_out`, but ValueError where none is left.
    """
    used = [own for own in _trained(study).values() if own.data == name]
    table = _read(study, name, used[0].filters if used else {}, rows, seed)
    if lacking := [side for side in ("prompt", "chosen", "rejected") if side not in table]:
        raise ValueError(f"data set '{name}': no {lacking[0]}; name a data set of pairs")
    found = _drawn(study, table, rows, seed)
    if found.empty:
        fix = "name another data set, or write `examples` to leave some"
        raise ValueError(f"data set '{name}': runs train on all of its pairs; {fix}")
    return found


def _read(study: Study, name: str, filters: dict, rows: int, seed: int) -> pd.DataFrame:
    """A data set, or of a large one as many rows as runs could take, and `rows` beyond them."""
    asked = [own.examples for own in _trained(study).values() if own.data == name]
    # None takes the whole set, and stays once a run asks for it
    most = None if None in asked else sum(asked) + rows
    return sets.corpus(name, filters, most, seed)


def _drawn(study: Study, table: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """At most `rows` of a table that no run learns from."""
    taken = {
        mark
        for (_, run_seed), settings in _trained(study).items()
        for marks in _marks(sets.draw_rows(settings, run_seed))
        for mark in marks
    }
    free = np.array([not taken.intersection(marks) for marks in _marks(table)], dtype=bool)
    table = table[free]
    # permuted whole and then cut: fewer rows are the first of more
    return table.iloc[np.random.default_rng(seed).permutation(len(table))[:rows]]


def _trained(study: Study) -> dict[tuple[str, int], TrainingSettings]:
    """Settings of all runs that train on data, once for each draw of rows: by data and seed."""
    found = {}
    for run in study.runs().values():
        if getattr(run.settings, "data", None):
            drawn = run.settings.model_dump(include=TrainingSettings.drawn_by)
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
