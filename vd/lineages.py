"""Run ids: made, taken apart and shown, here and nowhere else.

    run id     model/lineage/seed-S, such as smollm2-135m/sft-support/dpo-support/seed-0
    lineage    names of the run's ancestors and its own, oldest first, without the base model's;
               that of the base model itself is `base`

A run id is also the run's folder under results/<study>/ and the column `run` of every table.
"""

import pandas as pd

BASE = "base"  # lineage of an untrained model
# the lineage is greedy: it may hold slashes, which models and seeds may not
ID = r"^(?P<model>[^/]+)/(?P<lineage>.*)/seed-(?P<seed>[^/]+)$"


def run_id(model: str, lineage: str, seed: int) -> str:
    """The id of a run."""
    return f"{model}/{lineage}/seed-{seed}"


def child(parent: str, name: str) -> str:
    """The lineage of a run that starts from the end of `parent`, a lineage."""
    return name if parent == BASE else f"{parent}/{name}"


def parent(pooled: str) -> str:
    """The run that one starts from; both ids are without seeds."""
    model, _, lineage = pooled.partition("/")
    return f"{model}/{lineage.rpartition('/')[0] or BASE}"


def parts(runs: pd.Series) -> pd.DataFrame:
    """Model, lineage and seed (a text) of run ids, index kept; missing where an id is none."""
    return runs.str.extract(ID)


def of_model(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """The rows of one model's runs, index kept, their ids without it."""
    halves = table["run"].str.partition("/")
    return table.assign(run=halves[2])[halves[0] == model]


def split_seed(runs: pd.Series) -> pd.DataFrame:
    """What all seeds of a run share, `name`, and its `seed` (a text), index kept.

    Missing where an id has none. Other ids than runs', such as contrasts', may have a seed too.
    """
    return runs.str.extract(r"^(?P<name>.*)/seed-(?P<seed>[^/]+)$")


def short_names(runs: pd.Series) -> pd.Series:
    """Readable names: the lineage, with model and seed where they differ.

    Ids of pooled runs have no seed.
    """
    # Tables of pooled seeds have ids without one, and are shown by the same figures.
    pooled = ~runs.str.contains(r"/seed-[^/]+$")
    found = parts(runs.where(~pooled, runs + "/seed-x"))
    found["seed"] = runs.str.extract(r"/(seed-[^/]+)$")[0].fillna("")
    names = found["lineage"].fillna("").str.replace("/", " → ")
    names = names if found["model"].nunique() == 1 else found["model"] + ": " + names
    return names if found["seed"].nunique() == 1 else names + " (" + found["seed"] + ")"
