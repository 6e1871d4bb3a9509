"""What evaluations measured over training: means over seeds with intervals, by run."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vd.figures.lab import mean_over_seeds
from vd.figures.style import distinct
from vd.lineages import short_names, split_seed


def over_steps(
    measured: pd.DataFrame, evaluation: str, metrics: tuple[str, ...], alpha: float
) -> pd.DataFrame:
    """Metrics of an evaluation at every step of every run: metric, run, step, value, lo, hi,
    n_seeds; without those that nothing was measured of.
    """
    rows = measured[(measured["evaluation"] == evaluation) & (measured["n"] > 0)]
    parts = [
        over_seeds(rows[rows["metric"] == name], "step", alpha).assign(metric=name)
        for name in metrics
        if rows["metric"].eq(name).any()
    ]
    return pd.concat(parts, ignore_index=True)


def over_seeds(rows: pd.DataFrame, x: str, alpha: float) -> pd.DataFrame:
    """Rows of evaluations by run (a short name) and a column x: run, x, value, lo, hi, n_seeds."""
    rows = rows[rows["n"] > 0].assign(lineage=lambda table: split_seed(table["run"])["name"])
    found = [
        {"run": run, x: place, **mean_over_seeds(own, alpha)}
        for (run, place), own in rows.groupby(["lineage", x], sort=True)
    ]
    table = pd.DataFrame(found, columns=["run", x, "value", "lo", "hi", "n_seeds"])
    return table.assign(run=short_names(table["run"]))


def panels(table: pd.DataFrame) -> Figure:
    """`over_steps`: a panel per metric, a line per run that was measured more than once."""
    metrics = table["metric"].unique()
    several = table.groupby("run")["step"].transform("nunique") > 1
    table, width = table[several], max(2.2 * len(metrics), 4.4)
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(width, 2.6), squeeze=False, layout="constrained"
    )
    for ax, name in zip(axes[0], metrics, strict=True):
        lines(ax, table[table["metric"] == name], "step")
        ax.set(title=name, xlabel="step")
    if len(table):
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def lines(ax: Axes, table: pd.DataFrame, x: str) -> None:
    """A line per run over x, with its interval."""
    colours = distinct(table["run"].unique())
    for run, own in table.groupby("run", sort=False):
        ax.plot(own[x], own["value"], color=colours[run], marker="o", markersize=3, label=run)
        ax.fill_between(own[x], own["lo"], own["hi"], color=colours[run], alpha=0.15, linewidth=0)
