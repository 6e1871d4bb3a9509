"""Figures of data sets: their stances, the gap between chosen and rejected, a map of prompts."""

import itertools

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from vd.figures.style import COLOURS, MARKERS, shorten_end, with_legend
from vd.stances import STANCES
from vd.store.shown import excerpt


def value_gap(table: pd.DataFrame) -> Figure:
    """Value gap (chosen minus rejected) per topic and stance, columns as of `drift.value_gap`.

    There is one panel per data set; one without pairs says so, and so does a table without rows.
    """
    sets, last = list(table["dataset"].unique()) or [""], ("others", "all")
    # what sums up other topics comes last
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
        ax.set(title=shorten_end(name), xlim=(-1.05, 1.05), xlabel="chosen minus rejected")
    axes[0, 0].set(yticks=range(len(topics)), yticklabels=[excerpt(topic, 30) for topic in topics])
    # matplotlib counts upwards, tables are read downwards
    axes[0, 0].invert_yaxis()
    return with_legend(figure)


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
        # bars and names in one order
        share = wide["probability"].xs(stance, level="stance").reindex(names)
        ax.barh(places, share, left=left, color=COLOURS[stance], label=stance, height=0.7)
        left += share
    counts = wide["n_replies"].xs("support", level="stance").reindex(names)
    for y, n in enumerate(counts):
        ax.text(1.01, y, f"n = {n}", va="center", fontsize=7)
    ax.set(yticks=places, yticklabels=[shorten_end(name) for name in names])
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
    # tab20 alternates dark and light: light ones are taken when dark ones have run out,
    # and the first again for more than 18 topics
    for colour, topic in zip(itertools.cycle([*colours[::2], *colours[1::2]]), known, strict=False):
        part = table[table["topic"] == topic]
        ax.scatter(part["x"], part["y"], s=3, color=[colour], linewidth=0, label=topic)
    ax.set(xticks=[], yticks=[])
    figure.legend(loc="outside right", frameon=False, markerscale=4)
    return figure
