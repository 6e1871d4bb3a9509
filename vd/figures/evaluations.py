"""Evaluations of all runs: in one table, and first against last checkpoint in one figure."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vd import paths
from vd.lineages import short_names
from vd.store.shown import excerpt

MOMENTS = {"first checkpoint": "white", "last checkpoint": "black"}  # filled with
COLUMNS = 4  # panels side by side


def gather(study: str, runs: Iterable[str]) -> pd.DataFrame:
    """The rows of each run's evaluations.csv, columns as `vd.evaluations.run` writes them."""
    return pd.concat(
        [pd.read_csv(paths.evaluations(study, run)) for run in runs], ignore_index=True
    )


def at_the_end(table: pd.DataFrame) -> pd.DataFrame:
    """Each run's last checkpoint: value [interval], a row per metric and a column per run."""
    last = table[table["step"] == table.groupby("run")["step"].transform("max")]
    # n is 0 where nothing could be measured
    cells = [f"{r.value:.4g} [{r.lo:.4g}, {r.hi:.4g}]" if r.n else "" for r in last.itertuples()]
    return (
        last.assign(run=short_names(last["run"]), cell=cells)
        .pivot_table(
            index=["evaluation", "metric"],
            columns="run",
            values="cell",
            aggfunc="first",
            sort=False,
        )
        .reset_index()
    )


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """First and last checkpoint of every run and metric, with a column `moment`.

    A run with one checkpoint has its last one alone.
    """
    steps = table.groupby(["run", "evaluation", "metric"])["step"]
    last = table[table["step"] == steps.transform("max")].assign(moment="last checkpoint")
    # where first and last are one checkpoint, it is the last
    first = table[(table["step"] == steps.transform("min")) & ~table.index.isin(last.index)]
    return pd.concat([first.assign(moment="first checkpoint"), last]).sort_index(kind="stable")


def first_against_last(table: pd.DataFrame) -> Figure:
    """First (white) and last (black) checkpoint of every run with intervals, a panel per metric.

    Rows of `ends`; a metric that nothing could be measured of has an empty panel that says so.
    """
    table = table.assign(run=short_names(table["run"]))
    runs, panels = list(table["run"].unique()), table.groupby(["evaluation", "metric"], sort=False)
    figure, axes = grid(len(panels), runs, min(len(panels), COLUMNS))
    for ax, ((evaluation, metric), part) in zip(axes, panels, strict=True):
        _panel(ax, part, runs)
        ax.set_title(f"{evaluation.replace('_', ' ')}\n{excerpt(metric, 34)}")
    # drawn by hand: a panel may lack one of the two
    handles = [
        plt.Line2D([], [], color="black", marker="o", markerfacecolor=fill, label=moment)
        for moment, fill in MOMENTS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def grid(n: int, runs: list[str], columns: int = COLUMNS) -> tuple[Figure, list[Axes]]:
    """A figure with n panels, so many side by side, and these; each has a line per run, the first
    on top.
    """
    height = -(-n // columns)
    size = (1.5 + 2 * columns, (0.7 + 0.22 * len(runs)) * height + 0.3)
    figure, axes = plt.subplots(
        height, columns, sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    # a rectangle may have more places than there are panels
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    axes[0, 0].set(yticks=range(len(runs)), yticklabels=runs, ylim=(len(runs) - 0.5, -0.5))
    return figure, list(axes.flat[:n])


def _panel(ax, part: pd.DataFrame, runs: list[str]) -> None:
    """One metric; the two checkpoints of a run lie one above the other."""
    for offset, (moment, fill) in zip((-0.15, 0.15), MOMENTS.items(), strict=True):
        rows = part[(part["moment"] == moment) & (part["n"] > 0)]
        y = [runs.index(run) + offset for run in rows["run"]]
        ax.hlines(y, rows["lo"], rows["hi"], color="black", linewidth=0.9)
        ax.scatter(rows["value"], y, color=fill, edgecolor="black", s=14, zorder=3)
    if not part["n"].any():
        ax.text(0.5, 0.5, "nothing to measure", ha="center", fontsize=8, transform=ax.transAxes)
