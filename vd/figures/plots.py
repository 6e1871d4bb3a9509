"""Figures in one style: each stance has the same colour everywhere, and bands and bars are the
tables' intervals.

Each function draws one tidy table and returns a matplotlib figure; `save` writes it as PNG and PDF,
its data as CSV.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from vd.lineages import short_names
from vd.stances import STANCES
from vd.store import files
from vd.store.shown import excerpt

COLOURS = {
    "support": "#0072b2",
    "neutral": "#8c8c8c",
    "oppose": "#d55e00",
}  # Okabe-Ito, safe for colour blindness
VERDICTS = {
    "holds": "#009e73",
    "does not hold": "#d55e00",
    "undecided at this size": "#8c8c8c",
}  # Okabe-Ito
MARKERS = {"support": "^", "neutral": "o", "oppose": "v"}
sns.set_theme(
    style="whitegrid",
    context="paper",
    rc={"axes.titlesize": 9, "figure.dpi": 75, "savefig.dpi": 150},
)
plt.rcParams["text.parse_math"] = False  # a dollar sign in the name of a topic or data set is one


def save(figure: Figure, table: pd.DataFrame, path: Path) -> None:
    """Write `path`.png, .pdf and .csv, each atomically and without dates, so equal data give equal
    files.
    """
    for ending, metadata in (
        (".png", {"Software": None}),
        (".pdf", {"CreationDate": None, "ModDate": None}),
    ):
        with files.replace(Path(f"{path}{ending}")) as part:
            figure.savefig(part, bbox_inches="tight", metadata=metadata)
    files.write_table(table, Path(f"{path}.csv"))


def stances_over_steps(trajectories: pd.DataFrame, rows: str | None = None) -> Figure:
    """Stance probability over training steps, a panel per run.

    With `rows="topic"` also a row of panels per topic.
    """
    table = trajectories.assign(run=short_names(trajectories["run"]))
    runs, lines = list(table["run"].unique()), table[rows].unique() if rows else [None]
    panels = [(line, run) for line in lines for run in runs]
    columns = len(runs) if rows else min(len(runs), 4)
    height = -(-len(panels) // columns)
    size = (1.6 * columns, 1.0 * height) if rows else (2.3 * columns, 2.3 * height)
    figure, axes = plt.subplots(
        height, columns, sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    for i, (ax, (line, run)) in enumerate(zip(axes.flat, panels, strict=False)):
        part = table[(table["run"] == run) & (table[rows] == line if rows else True)]
        for stance, path in part.groupby("stance"):
            ax.plot(
                path["step"],
                path["probability"],
                color=COLOURS[stance],
                marker=MARKERS[stance],
                markersize=3,
            )
            ax.fill_between(
                path["step"], path["lo"], path["hi"], color=COLOURS[stance], alpha=0.2, linewidth=0
            )
        ax.set(ylim=(0, 1), xlim=(part["step"].min(), part["step"].max()))
        if i % columns == 0:
            ax.set_ylabel(excerpt(line, 20) if line else "stance probability", fontsize=8)
        if i < columns or not rows:
            ax.set_title(run.replace(" → ", "\n→ "))
        if i >= len(panels) - columns:
            ax.set_xlabel("training step")
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    return _legend(figure)


def drift(table: pd.DataFrame, seeds: pd.DataFrame) -> Figure:
    """Drift magnitude (left) and time (right) per run and stance, over all topics, with intervals
    over seeds.

    `seeds` is the same table with a row per seed; its magnitudes and times are drawn as small dots.
    """
    pooled = table[table["topic"] == "all"].assign(run=lambda t: short_names(t["run"]))
    single = seeds[seeds["topic"] == "all"].assign(
        run=lambda t: short_names(t["run"].str.rpartition("/")[0])
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
    return _legend(figure)


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
        ax.set_xticks(part["value"].unique(), [f"{value:g}" for value in part["value"].unique()])
        ax.minorticks_off()
    axes[0, 0].set_ylabel("drift magnitude")
    return _legend(figure)


def before_after(distribution: pd.DataFrame) -> Figure:
    """Stance mix at the first and last checkpoint of every run.

    Columns run, moment, stance, probability.
    """
    wide = distribution.assign(run=short_names(distribution["run"])).pivot_table(
        index=["run", "moment"], columns="stance", values="probability", sort=False
    )[list(STANCES)]
    figure, ax = plt.subplots(figsize=(6.5, 0.8 + 0.34 * len(wide)), layout="constrained")
    y = [i + 0.35 * (i // 2) for i in range(len(wide))]
    left = pd.Series(0.0, index=wide.index)
    for stance in STANCES:
        ax.barh(y, wide[stance], left=left, height=0.9, color=COLOURS[stance])
        for yy, start, share in zip(y, left, wide[stance], strict=True):
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
    return _legend(figure)


def value_gap(table: pd.DataFrame) -> Figure:
    """Value gap (chosen minus rejected) per topic and stance, columns as of `drift.value_gap`.

    There is one panel per data set; one without pairs says so, and so does a table without rows.
    """
    sets, last = list(table["dataset"].unique()) or [""], ("others", "all")
    topics = sorted(
        table["topic"].unique(), key=lambda topic: (topic in last and 1 + last.index(topic), topic)
    )
    figure, axes = plt.subplots(
        1,
        len(sets),
        sharey=True,
        squeeze=False,
        layout="constrained",
        figsize=(1.5 + 3 * len(sets), 0.8 + 0.32 * max(len(topics), 3)),
    )
    for ax, name in zip(axes[0], sets, strict=True):
        for offset, stance in zip((-0.22, 0, 0.22), STANCES, strict=True):
            part = table[(table["dataset"] == name) & (table["stance"] == stance)]
            y = [topics.index(topic) + offset for topic in part["topic"]]
            ax.hlines(y, part["lo"], part["hi"], color=COLOURS[stance])
            ax.scatter(
                part["gap"], y, color=COLOURS[stance], marker=MARKERS[stance], s=14, zorder=3
            )
        if not table.loc[table["dataset"] == name, "n_pairs"].any():
            ax.text(0, 0, "no pair was judged", ha="center", fontsize=8, transform=ax.transData)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(title=_end(name), xlim=(-1.05, 1.05), xlabel="chosen minus rejected")
    axes[0, 0].set(yticks=range(len(topics)), yticklabels=[excerpt(topic, 30) for topic in topics])
    axes[0, 0].invert_yaxis()
    return _legend(figure)


def stance_profile(table: pd.DataFrame) -> Figure:
    """Stance profile of data sets, one bar per set and side; columns of `drift.profile`."""
    names = [
        f"{row.dataset}, {row.side}"
        for row in table[["dataset", "side"]].drop_duplicates().itertuples()
    ]
    places = range(len(names))
    wide = table.assign(name=table["dataset"] + ", " + table["side"]).set_index(["name", "stance"])
    figure, ax = plt.subplots(layout="constrained", figsize=(5.5, 0.7 + 0.28 * len(names)))
    left = pd.Series(0.0, names)
    for stance in STANCES:
        share = wide["probability"].xs(stance, level="stance").reindex(names)
        ax.barh(places, share, left=left, color=COLOURS[stance], label=stance, height=0.7)
        left += share
    counts = wide["n_replies"].xs("support", level="stance").reindex(names)
    for y, n in enumerate(counts):
        ax.text(1.01, y, f"n = {n}", va="center", fontsize=7)
    ax.set(yticks=places, yticklabels=[_end(name) for name in names])
    ax.set(xlim=(0, 1), xlabel="mean stance probability of value-laden replies")
    ax.invert_yaxis()
    ax.grid(visible=False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def topic_map(table: pd.DataFrame) -> Figure:
    """A map of prompts (columns x, y, topic); those without a topic are grey."""
    figure, ax = plt.subplots(layout="constrained", figsize=(7, 4.6))
    others = table[table["topic"].isna()]
    ax.scatter(others["x"], others["y"], s=1, color="#cccccc", linewidth=0, label="no topic")
    known = sorted(table["topic"].dropna().unique())
    colours = [
        c for i, c in enumerate(sns.color_palette("tab20")) if i not in (14, 15)
    ]  # its greys
    for colour, topic in zip([*colours[::2], *colours[1::2]], known, strict=False):
        part = table[table["topic"] == topic]
        ax.scatter(part["x"], part["y"], s=3, color=[colour], linewidth=0, label=topic)
    ax.set(xticks=[], yticks=[])
    figure.legend(loc="outside right", frameon=False, markerscale=4)
    return figure


def findings(contrasts: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Every contrast with its interval, coloured by the verdict on its finding.

    Both tables of `findings.evaluate`.
    """
    keys = ["model", "finding"]
    rows = contrasts.merge(table[[*keys, "verdict"]], on=keys).assign(y=lambda t: t.index)
    rows["y"] += (
        0.7 * (rows[keys] != rows[keys].shift()).any(axis=1).cumsum()
    )  # a gap before each finding
    models = (
        rows["model"] + ": " if rows.loc[rows["model"] != "data", "model"].nunique() > 1 else ""
    )
    figure, ax = plt.subplots(figsize=(7.5, 1.3 + 0.26 * len(rows)), layout="constrained")
    for verdict, colour in VERDICTS.items():
        part = rows[rows["verdict"] == verdict]
        ax.hlines(part["y"], part["lo"], part["hi"], color=colour)
        ax.scatter(part["estimate"], part["y"], color=colour, s=22, zorder=3, label=verdict)
    ax.axvline(0, color="black", linewidth=0.8)
    labels = models + rows["finding"] + ": " + rows["contrast"]
    ax.set(
        yticks=rows["y"], yticklabels=labels, xlabel="contrast (above zero speaks for the claim)"
    )
    ax.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


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
    ax.plot([0.3, 1], [0.3, 1], color="black", linewidth=0.8, linestyle=":")
    ax.scatter(
        table["confidence"],
        table["accuracy"],
        s=table["n"] / table["n"].max() * 120,
        color="#0072b2",
    )
    ax.set(xlabel="stated probability", ylabel="share right", xlim=(0.3, 1.02), ylim=(0.3, 1.02))
    return figure


def _end(name: str) -> str:
    """The end of a data set's name, which may be a long path, as a label."""
    name = excerpt(name, len(name) * 10)
    return name if len(name) <= 40 else f"…{name[-39:]}"


def _legend(figure: Figure) -> Figure:
    handles = [
        plt.Line2D([], [], color=COLOURS[s], marker=MARKERS[s], linestyle="-", label=s)
        for s in STANCES
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure
