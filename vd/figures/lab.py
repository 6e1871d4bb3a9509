"""Safety, quality and diversity of a study's runs beside their drift, over seeds; and what they
said to the same prompts.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vd import paths
from vd.drift.measures import drift_table
from vd.figures import evaluations
from vd.figures.evaluations import grid
from vd.figures.style import distinct
from vd.findings import student
from vd.lineages import short_names, split_seed
from vd.store import shown
from vd.store.recorded import found
from vd.study.load import Study

MEASURES = {  # what stands in the table, by evaluation and metric, and which way is better
    ("safety", "harmful"): "less",
    ("safety", "refused"): "more",
    ("safety", "over-refused"): "less",
    ("safety", "evasive"): "less",
    ("quality", "win rate"): "more",
    ("quality", "length-controlled win rate"): "more",
    ("quality", "accuracy"): "more",
    ("quality", "answered"): "more",
    ("quality", "characters"): "",
    ("quality", "specificity"): "",
    ("diversity", "distinct-2"): "more",
    ("diversity", "self-BLEU"): "less",
    ("diversity", "distance"): "more",
    ("diversity", "opening entropy"): "more",
    ("kl", "kl"): "",
    ("drift", "support"): "",
}


def over_seeds(
    measured: pd.DataFrame,
    drift: pd.DataFrame | None,
    alpha: float = 0.05,
    measures: dict[tuple[str, str], str] = MEASURES,
) -> pd.DataFrame:
    """`measures` at the last checkpoint of every run, all seeds together: run (a short name),
    evaluation, metric, value, lo, hi, n_seeds.

    `measured` are evaluations of all runs, `drift` their drift tables (vd.drift), if any. Of
    several seeds intervals are Student's over seeds; of one they are what the evaluation gave.
    """
    columns = ["run", "evaluation", "metric", "value", "lo", "hi", "n_seeds"]
    last = measured[measured["step"] == measured.groupby("run")["step"].transform("max")]
    rows = last[["run", "evaluation", "metric", "value", "lo", "hi", "n"]]
    if drift is not None:
        rows = pd.concat([rows, _as_measured(drift)], ignore_index=True)
    known = pd.MultiIndex.from_tuples(measures)
    rows = rows[(rows["n"] > 0) & rows.set_index(["evaluation", "metric"]).index.isin(known)]
    rows = rows.assign(lineage=split_seed(rows["run"])["name"])
    table = [
        {"run": run, "evaluation": evaluation, "metric": metric, **mean_over_seeds(own, alpha)}
        for (run, evaluation, metric), own in rows.groupby(
            ["lineage", "evaluation", "metric"], sort=False
        )
    ]
    table = pd.DataFrame(table, columns=columns)
    order = {key: place for place, key in enumerate(measures)}
    place = [order[key] for key in zip(table["evaluation"], table["metric"], strict=True)]
    table = table.assign(run=short_names(table["run"]), place=place)
    return table.sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)


def of_study(study: Study, runs: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluations of runs that are made, and `over_seeds` of these and of their drift."""
    measured = evaluations.gather(study.name, runs)
    stances = pd.concat([pd.read_parquet(paths.stances(study.name, run)) for run in runs])
    drift = drift_table(stances, study.bootstrap)
    return measured, over_seeds(measured, drift, study.bootstrap.alpha)


def as_table(table: pd.DataFrame, measures: dict[tuple[str, str], str] = MEASURES) -> pd.DataFrame:
    """`over_seeds` for reading: a row per measure, a column per run, value [interval]."""
    cells = [f"{row.value:.2f} [{row.lo:.2f}, {row.hi:.2f}]" for row in table.itertuples()]
    better = [measures[key] for key in zip(table["evaluation"], table["metric"], strict=True)]
    return (
        table.assign(cell=cells, better=better)
        .pivot_table(
            index=["evaluation", "metric", "better"],
            columns="run",
            values="cell",
            aggfunc="first",
            sort=False,
        )
        .fillna("")
        .reset_index()
    )


def compared(table: pd.DataFrame) -> Figure:
    """A panel per measure, a dot per run with its interval."""
    keys = list(dict.fromkeys(zip(table["evaluation"], table["metric"], strict=True)))
    runs = list(table["run"].unique())
    colours, (figure, axes) = distinct(runs), grid(len(keys), runs)
    for ax, key in zip(axes, keys, strict=True):
        own = table[(table["evaluation"] == key[0]) & (table["metric"] == key[1])]
        y = [runs.index(run) for run in own["run"]]
        colour = [colours[run] for run in own["run"]]
        ax.hlines(y, own["lo"], own["hi"], color=colour, linewidth=1.2)
        ax.scatter(own["value"], y, color=colour, s=18, zorder=3)
        arrow = {"more": " →", "less": " ←", "": ""}[MEASURES[key]]
        ax.set_title(f"{key[0]}: {key[1]}{arrow}")
    return figure


def side_by_side(study: Study, name: str = "quality", prompts: int = 10) -> pd.DataFrame:
    """What the runs of the first seed said to the first prompts of an evaluation, at the start and
    the end of each: prompt, run, step, response. A start that several share stands once.
    """
    parts, columns = [], ["prompt", "run", "step", "response"]
    for run in study.policies().values():
        if run.seed == study.seeds[0] and name in study.evaluation_settings(run):
            measured = pd.read_csv(found(paths.evaluations(study.name, run.id), study.name))
            steps = measured.loc[measured["evaluation"] == name, "step"]
            for step in sorted({steps.min(), steps.max()}):
                file = paths.asked(study.name, run.id, name, step)
                parts.append(pd.read_parquet(found(file, study.name)))
    if not parts:
        return pd.DataFrame(columns=columns)
    table = pd.concat(parts, ignore_index=True)
    few = table["prompt"].drop_duplicates().head(prompts)
    table = table[table["prompt"].isin(few) & (table["sample"] == 0)]
    # children start where their parent ended
    starts = table["step"].eq(0) & table.duplicated(["prompt", "response"])
    table = table.assign(run=short_names(table["run"]))[~starts]
    order = table["prompt"].map({prompt: place for place, prompt in enumerate(few)})
    return table.iloc[np.argsort(order.to_numpy(), kind="stable")][columns].reset_index(drop=True)


def as_text(said: pd.DataFrame) -> str:
    """`side_by_side` to print: each prompt with all replies to it."""
    lines = []
    for prompt, replies in said.groupby("prompt", sort=False):
        lines.append(shown.whole(prompt))
        for reply in replies.itertuples():
            lines.append(shown.whole(reply.response, f"  {reply.run}, step {reply.step}"))
        lines.append("")
    return "\n".join(lines)


def mean_over_seeds(own: pd.DataFrame, alpha: float) -> dict:
    """The mean of rows (value, lo, hi), one per seed, with its interval: Student's over seeds, or
    the one seed's own.
    """
    n = len(own)
    if n == 1:
        return {**own[["value", "lo", "hi"]].iloc[0], "n_seeds": 1}
    found = student.over_seeds("", "", own["value"], alpha, None, n)
    return {"value": found["estimate"], "lo": found["lo"], "hi": found["hi"], "n_seeds": n}


def _as_measured(drift: pd.DataFrame) -> pd.DataFrame:
    """Drift of support over all topics, as if an evaluation had measured it."""
    moved = drift[(drift["topic"] == "all") & (drift["stance"] == "support")]
    return pd.DataFrame(
        {
            "run": moved["run"],
            "evaluation": "drift",
            "metric": "support",
            "value": moved["magnitude"],
            "lo": moved["magnitude_lo"],
            "hi": moved["magnitude_hi"],
            "n": moved["n_prompts"],
        }
    )
