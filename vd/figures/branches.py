"""The headline: one stance through SFT and the branches of preference training, and what was said.

Runs share one axis of steps: a run begins where its parent ends. Numbered points are the replies
below the picture, to one question.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vd.figures.style import COLOURS, distinct, with_log_odds
from vd.lineages import BASE, parent, short_names, split_seed
from vd.store.shown import excerpt

GAP = 0.05  # between two labels, as a share of the axis
WIDTH = 88  # characters of a reply


def branches(
    table: pd.DataFrame,
    stance: str,
    said: pd.DataFrame | None = None,
    odds: pd.DataFrame | None = None,
) -> Figure:
    """Probability of a stance over steps with its interval, every run a branch of its parent.

    `table` has run (ids without seeds, parents before children), step, probability, lo, hi; `said`
    has run (ids), prompt, stance, reply: one reply a run, at its end. `odds` has run, step,
    log_odds, lo, hi, for a panel of its own (`odds_between`).
    """
    paths = {run: rows for run, rows in table.groupby("run", sort=False)}
    names = dict(zip(paths, short_names(pd.Series(list(paths))), strict=True))
    of_runs = [] if said is None else split_seed(said["run"])["name"]
    numbers = {run: i for i, run in enumerate(of_runs, start=1)}
    begin, lines = _begin(paths), 0 if said is None else len(said) + 1
    shares = [3.4] + [1.9] * (odds is not None) + [0.19 * lines] * bool(lines)
    figure = plt.figure(figsize=(7.5, sum(shares)), layout="constrained")
    ax, *below = figure.subplots(len(shares), 1, height_ratios=shares, squeeze=False)[:, 0]
    colours, parents = distinct(paths), [parent(run) for run in paths]
    ends = []
    for run, rows in paths.items():
        colour = colours[run]
        x = begin[run] + rows["step"]
        if odds is None:
            _path(ax, x, rows["probability"], rows, colour)
        else:  # nothing was judged between the ends
            around = [rows["probability"] - rows["lo"], rows["hi"] - rows["probability"]]
            style = {"fmt": ".", "linestyle": ":", "linewidth": 1.2, "elinewidth": 0.8}
            ax.errorbar(x, rows["probability"], np.abs(around), color=colour, **style)
        number = numbers.get(run, "")
        label = f"{number} {names[run].rpartition(' → ')[2]}".strip()
        end = x.iloc[-1], rows["probability"].iloc[-1]
        if run in parents:
            _name(ax, *end, label, colour, above=True)  # to the right its children begin
        else:
            ends.append((*end, label, colour))
        if parent(run) in numbers and parent(run) not in paths:  # the base model, named once
            start = x.iloc[0], rows["probability"].iloc[0]
            _name(ax, *start, f"{numbers.pop(parent(run))} {BASE}", "black", above=True)
    _label(ax, ends)
    last = max(x for x, *_ in ends)
    ax.set(ylim=(0, 1), ylabel=f"probability of {stance}", xlim=(0, 1.24 * last))
    ax.set_xlabel("training steps since the start (bands and bars: 95 % intervals)")
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= last])
    with_log_odds(ax, table["probability"])
    if odds is not None:
        for run, rows in odds.groupby("run", sort=False):
            _path(below[0], begin[run] + rows["step"], rows["log_odds"], rows, colours[run])
        below[0].set(xlim=ax.get_xlim(), xticks=ax.get_xticks(), ylabel="log-odds of\nYes to No")
        below[0].set_xlabel(ax.get_xlabel())
        ax.set_xlabel("")
    if lines:
        _write(below[-1], said)
    return figure


def _path(ax: Axes, x: pd.Series, y: pd.Series, rows: pd.DataFrame, colour: str) -> None:
    """A run through its checkpoints, with a band from `lo` to `hi` of `rows`."""
    ax.plot(x, y, color=colour, marker=".", linewidth=1.4)
    ax.fill_between(x, rows["lo"], rows["hi"], color=colour, alpha=0.12, linewidth=0)


def odds_between(table: pd.DataFrame, odds: pd.DataFrame) -> pd.DataFrame | None:
    """Log-odds of Yes against No at all saved checkpoints, the mean over both kinds of probes, for
    the runs of `table`, where their replies were judged at both ends alone; else None.

    `odds` has run, topic, step, measure, value, lo, hi.
    """
    if table.groupby("run")["step"].nunique().max() > 2:
        return None
    own = odds[(odds["topic"] == "all") & (odds["measure"] == "acquiescence")]
    own = own[own["run"].isin(table["run"])].rename(columns={"value": "log_odds"})
    return own[["run", "step", "log_odds", "lo", "hi"]]


def _begin(paths: dict[str, pd.DataFrame]) -> dict[str, int]:
    """The step of the common axis that every run begins at: where its parent ends."""
    begin = {}
    for run in paths:
        before = parent(run)
        begin[run] = begin[before] + paths[before]["step"].max() if before in begin else 0
    return begin


def _label(ax: Axes, ends: list[tuple]) -> None:
    """Name lines at their ends, labels of one x moved apart where they would cover each other."""
    for x in {end[0] for end in ends}:
        own = sorted((end for end in ends if end[0] == x), key=lambda end: end[1])
        y = np.array([end[1] for end in own])
        for _ in range(200):  # neighbours that are too near push each other away
            near = np.flatnonzero(np.diff(y) < GAP)
            if not len(near):
                break
            y[near] -= GAP / 20
            y[near + 1] += GAP / 20
        for height, (_, _, label, colour) in zip(y, own, strict=True):
            _name(ax, x, height, label, colour)


def _name(ax: Axes, x: float, y: float, label: str, colour: str, above: bool = False) -> None:
    where = {"xytext": (6, 0), "va": "center"}
    if above:  # of the line, to the side where it has room
        where = {"xytext": (5, 7)} if x == 0 else {"xytext": (-4, 7), "ha": "right"}
    style = {"textcoords": "offset points", "color": colour, "fontsize": 8}
    ax.annotate(label, (x, y), **where, **style)


def _write(ax: Axes, said: pd.DataFrame) -> None:
    """The question and the replies to it, stances in their colours."""
    ax.axis("off")
    lines = [(said["prompt"].iloc[0], "black", "bold")]
    for number, reply in enumerate(said.itertuples(), start=1):
        text = f"{number}  {excerpt(reply.reply, WIDTH)}  ({reply.stance})"
        lines.append((text, COLOURS.get(reply.stance, "black"), "normal"))
    for i, (text, colour, weight) in enumerate(lines):
        y = 1 - (i + 0.5) / len(lines)
        ax.text(0, y, text, color=colour, weight=weight, fontsize=8, va="center")
