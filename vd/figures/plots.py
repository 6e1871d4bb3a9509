"""Figures of runs: stances over steps, drift; bands and bars are the tables' intervals.

Each function draws one tidy table and returns a matplotlib figure, which vd/figures/style.py saves.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from vd.figures.style import COLOURS, MARKERS, distinct, with_legend
from vd.lineages import short_names, split_seed
from vd.stances import STANCES
from vd.store.shown import excerpt

FEW = 30  # prompts, below which an interval is little more than a guess


def stances_over_steps(trajectories: pd.DataFrame) -> Figure:
    """Stance probability over training steps, a panel per run."""
    table = trajectories.assign(run=short_names(trajectories["run"]))
    runs = list(table["run"].unique())
    columns = min(len(runs), 4)
    height = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        height,
        columns,
        sharey=True,
        squeeze=False,
        figsize=(2.3 * columns, 2.3 * height),
        layout="constrained",
    )
    for i, (ax, run) in enumerate(zip(axes.flat, runs, strict=False)):
        part = table[table["run"] == run]
        for stance, path in part.groupby("stance"):
            style = {"color": COLOURS[stance], "marker": MARKERS[stance], "markersize": 3}
            ax.plot(path["step"], path["probability"], **style)
            band = {"color": COLOURS[stance], "alpha": 0.2, "linewidth": 0}
            ax.fill_between(path["step"], path["lo"], path["hi"], **band)
        ax.set(ylim=(0, 1), xlim=(part["step"].min(), part["step"].max()))
        ax.set_title(_lines(run))
        if i % columns == 0:
            ax.set_ylabel("stance probability", fontsize=8)
        if i >= len(runs) - columns:
            ax.set_xlabel("training step")
    # the grid is a rectangle, and may have more places than there are panels
    for ax in axes.flat[len(runs) :]:
        ax.set_visible(False)
    return with_legend(figure)


def drift_by_topic(table: pd.DataFrame) -> Figure:
    """Drift magnitude of every topic (rows) and run (columns), a panel per stance.

    Columns as of `vd.drift.measures.drift_table`. Where the interval holds 0, the number is grey
    and its cell has no colour. Cells of fewer than `FEW` prompts are hatched.
    """
    table = table.assign(run=short_names(table["run"]))
    runs, topics = list(table["run"].unique()), list(table["topic"].unique())
    labels = [_lines(run) for run in runs]
    figure, axes = plt.subplots(
        len(STANCES),
        1,
        sharex=True,
        figsize=(2.2 + 0.75 * len(runs), 1 + 0.2 * len(STANCES) * (1 + len(topics))),
        layout="constrained",
    )
    for ax, stance in zip(axes, STANCES, strict=True):
        part = table[table["stance"] == stance].set_index(["topic", "run"])
        wide = part["magnitude"].unstack().reindex(topics)[runs]
        clear = ((part["magnitude_lo"] > 0) | (part["magnitude_hi"] < 0)).unstack()
        clear = clear.reindex(topics)[runs]
        # one scale for all panels and studies: a small drift must not look like a large one
        scale = {"cmap": "PRGn", "vmin": -1, "vmax": 1, "cbar": False}
        text = {"annot": wide, "fmt": "+.2f", "annot_kws": {"size": 7}}
        text |= {"xticklabels": labels, "yticklabels": [excerpt(topic, 20) for topic in topics]}
        sns.heatmap(wide.where(clear, 0), ax=ax, linewidths=0.5, **text, **scale)
        for number, sure in zip(ax.texts, clear.to_numpy().ravel(), strict=True):
            if not sure:
                number.set_color("#999999")
        few = (part["n_prompts"].unstack().reindex(topics)[runs] < FEW).to_numpy()
        for row, column in np.argwhere(few):
            style = {"fill": False, "hatch": "////", "edgecolor": "#00000022", "linewidth": 0}
            ax.add_patch(plt.Rectangle((column, row), 1, 1, **style))
        ax.set(title=f"drift of {stance}", xlabel="", ylabel="")
        ax.tick_params(labelsize=7)
    plt.setp(axes[-1].get_xticklabels(), rotation=60, ha="right")
    axes[-1].set_xlabel(f"hatched: fewer than {FEW} prompts", fontsize=8)
    return figure


def acquiescence_lean(table: pd.DataFrame) -> Figure:
    """Paths of all runs over training: acquiescence to the right, lean upwards.

    `table` has the rows of all topics of the first of `vd.drift.acquiescence.tables`. Bars are the
    last checkpoint's intervals.
    """
    table = table.assign(run=short_names(table["run"]))
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for line in (ax.axhline, ax.axvline):
        line(0, color="#bbbbbb", linewidth=0.8)
    colours = distinct(table["run"].unique())
    for run, rows in table.groupby("run", sort=False):
        colour = colours[run]
        wide = rows.pivot(index="step", columns="measure", values=["value", "lo", "hi"])
        x, y = wide["value", "acquiescence"], wide["value", "lean"]
        ax.plot(x, y, color=colour, linewidth=1.2, marker=".", markersize=3, label=run)
        ends = {"marker": "o", "edgecolor": colour, "s": 28, "zorder": 3}
        ax.scatter(x.iloc[0], y.iloc[0], facecolor="white", **ends)
        ax.scatter(x.iloc[-1], y.iloc[-1], facecolor=colour, **ends)
        last = wide.iloc[-1]
        ax.hlines(y.iloc[-1], last["lo", "acquiescence"], last["hi", "acquiescence"], color=colour)
        ax.vlines(x.iloc[-1], last["lo", "lean"], last["hi", "lean"], color=colour)
    # one scale for both: that the one moves and the other does not must be seen
    ax.set(xlabel="acquiescence (says yes, whatever is asked)", ylabel="lean (takes a side)")
    ax.set_aspect("equal", adjustable="datalim")
    ax.scatter([], [], facecolor="white", edgecolor="black", s=28, label="(start)")
    figure.legend(loc="outside right", frameon=False)
    return figure


def drift(table: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Drift magnitude (left) and time (right) per run and stance, over all topics, with intervals
    over seeds.

    `seeds` is the same table with a row per seed; its magnitudes and times are drawn as small dots.
    """
    pooled = table[table["topic"] == "all"].assign(run=lambda t: short_names(t["run"]))
    single = seeds[seeds["topic"] == "all"].assign(
        run=lambda t: short_names(split_seed(t["run"])["name"])
    )
    runs = list(pooled["run"].unique())
    figure, axes = plt.subplots(
        1, 2, sharey=True, figsize=(7.5, 0.8 + 0.55 * len(runs)), layout="constrained"
    )
    for ax, name in zip(axes, ("magnitude", "time"), strict=True):
        for offset, stance in zip((-0.2, 0, 0.2), STANCES, strict=True):
            part, dots = (rows[rows["stance"] == stance] for rows in (pooled, single))
            y = [runs.index(run) + offset for run in part["run"]]
            ax.hlines(y, part[f"{name}_lo"], part[f"{name}_hi"], color=COLOURS[stance])
            ax.scatter(part[name], y, color=COLOURS[stance], marker=MARKERS[stance], s=22, zorder=3)
            ax.scatter(
                dots[name],
                [runs.index(run) + offset for run in dots["run"]],
                color="black",
                s=2,
                zorder=4,
            )
    axes[0].axvline(0, color="black", linewidth=0.8)
    axes[0].set(
        yticks=range(len(runs)), yticklabels=runs, xlabel="drift magnitude (end minus start)"
    )
    axes[1].set(xlabel="drift time (fraction of the phase)", xlim=(-0.03, 1.03))
    axes[0].invert_yaxis()
    return with_legend(figure)


def ablations(table: pd.DataFrame) -> Figure:
    """Drift magnitude against a setting, one panel per ablation.

    Ablation, key, value, stance, magnitude, lo, hi.
    """
    names = table["ablation"].unique()
    figure, axes = plt.subplots(
        1,
        len(names),
        sharey=True,
        squeeze=False,
        figsize=(2.4 * len(names), 2.5),
        layout="constrained",
    )
    for name, ax in zip(names, axes[0], strict=True):
        part = table[table["ablation"] == name].sort_values("value")
        for stance, rows in part.groupby("stance"):
            # errorbar wants distances from the point, tables hold ends
            spread = [
                rows["magnitude"] - rows["magnitude_lo"],
                rows["magnitude_hi"] - rows["magnitude"],
            ]
            ax.errorbar(
                rows["value"],
                rows["magnitude"],
                spread,
                color=COLOURS[stance],
                marker=MARKERS[stance],
                markersize=4,
            )
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(
            title=name,
            xlabel=part["key"].iloc[0],
            xscale="log" if part["value"].min() > 0 else "linear",
        )
        # values that were tried instead of the ticks of a scale
        ax.set_xticks(part["value"].unique(), [f"{value:g}" for value in part["value"].unique()])
        ax.minorticks_off()
    axes[0, 0].set_ylabel("drift magnitude")
    return with_legend(figure)


def before_after(distribution: pd.DataFrame) -> Figure:
    """Stance mix at the first and last checkpoint of every run.

    Columns run, moment, stance, probability.
    """
    wide = distribution.assign(run=short_names(distribution["run"])).pivot_table(
        index=["run", "moment"], columns="stance", values="probability", sort=False
    )[list(STANCES)]
    figure, ax = plt.subplots(figsize=(6.5, 0.8 + 0.34 * len(wide)), layout="constrained")
    # rows come in pairs, before and after, with a gap between runs
    y = [i + 0.35 * (i // 2) for i in range(len(wide))]
    left = pd.Series(0.0, index=wide.index)
    for stance in STANCES:
        ax.barh(y, wide[stance], left=left, height=0.9, color=COLOURS[stance])
        for yy, start, share in zip(y, left, wide[stance], strict=True):
            # a thinner bar has no room for its number
            if share >= 0.06:
                ax.text(
                    start + share / 2,
                    yy,
                    f"{share:.2f}",
                    ha="center",
                    va="center",
                    color="white",
                    fontsize=7,
                )
        left += wide[stance]
    ax.set(
        yticks=y,
        yticklabels=[f"{run}, {moment}" for run, moment in wide.index],
        xlim=(0, 1),
        xlabel="stance probability, all topics",
    )
    ax.grid(False)
    ax.invert_yaxis()
    return with_legend(figure)


def losses(metrics: pd.DataFrame, columns: list[str]) -> Figure:
    """Training curves over steps, one panel per column of the metrics table."""
    figure, axes = plt.subplots(
        1, len(columns), figsize=(3 * len(columns), 2.2), squeeze=False, layout="constrained"
    )
    for ax, column in zip(axes[0], columns, strict=True):
        ax.plot(metrics["step"], metrics[column], color="black", marker=".", linewidth=1)
        ax.set(xlabel="training step", title=column)
    return figure


def confusion(matrix: pd.DataFrame, title: str) -> Figure:
    """A confusion matrix of counts: rows are the labels given, columns the judge's."""
    figure, ax = plt.subplots(figsize=(3.2, 2.6), layout="constrained")
    sns.heatmap(matrix, annot=True, fmt="d", cmap="Greys", cbar=False, ax=ax)
    ax.set(title=title, xlabel="judge", ylabel="label")
    return figure


def calibration(table: pd.DataFrame) -> Figure:
    """Share of right labels against stated probability: columns confidence, accuracy, n."""
    figure, ax = plt.subplots(figsize=(2.8, 2.6), layout="constrained")
    # the diagonal is perfect calibration; with three stances no label is below 1/3
    ax.plot([0.3, 1], [0.3, 1], color="black", linewidth=0.8, linestyle=":")
    ax.scatter(
        table["confidence"],
        table["accuracy"],
        s=table["n"] / table["n"].max() * 120,
        color="#0072b2",
    )
    ax.set(xlabel="stated probability", ylabel="share right", xlim=(0.3, 1.02), ylim=(0.3, 1.02))
    return figure


def _lines(run: str) -> str:
    """A run's short name with a line for each of its ancestors."""
    return run.replace(" → ", "\n→ ")
