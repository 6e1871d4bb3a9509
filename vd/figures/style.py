"""One style for all figures: each stance has the same colour and marker everywhere."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.special
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vd.stances import STANCES
from vd.store import files
from vd.store.shown import excerpt

sns.set_theme(
    style="whitegrid",
    context="paper",
    rc={"axes.titlesize": 9, "figure.dpi": 75, "savefig.dpi": 150},
)
plt.rcParams["text.parse_math"] = False  # a dollar sign in the name of a topic or data set is one

COLOURS = {
    "support": "#0072b2",
    "neutral": "#8c8c8c",
    "oppose": "#d55e00",
}  # Okabe-Ito, safe for colour blindness
# for runs and data sets: Okabe-Ito and Tol, without those that mean a stance
RUNS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#332288", "#999933", "#44aa99")
NEAR = 0.1  # probabilities within that of 0 or 1 are near a floor or ceiling
MARKERS = {"support": "^", "neutral": "o", "oppose": "v"}


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


def distinct(names: Iterable[str]) -> dict[str, str]:
    """A colour for each of these runs or data sets, none that means a stance; more than nine begin
    again.
    """
    return dict(zip(names, cycle(("black", *RUNS)), strict=False))


def shorten_end(name: str) -> str:
    """The end of a data set's name, which may be a long path, as a label."""
    # one invisible character is written as ten at most, so nothing is cut off here
    name = excerpt(name, len(name) * 10)
    return name if len(name) <= 40 else f"…{name[-39:]}"


def with_log_odds(ax: Axes, probabilities: pd.Series) -> None:
    """Log-odds (nats) on the right of an axis of probabilities, where some of these are near 0 or
    1: a step from 0.9 to 0.95 is as long there as one from 0.5 to 0.67.
    """
    if not (probabilities.min() < NEAR or probabilities.max() > 1 - NEAR):
        return
    odds = lambda p: scipy.special.logit(np.clip(p, 0.001, 0.999))  # noqa: E731
    right = ax.secondary_yaxis("right", functions=(odds, scipy.special.expit))
    right.set_yticks(range(-3, 4), [f"{nats:+d}" if nats else "0" for nats in range(-3, 4)])
    right.set_ylabel("log-odds")


def with_legend(figure: Figure) -> Figure:
    """The figure with one legend for all its panels, below them."""
    # drawn by hand: a panel may lack a stance
    handles = [
        plt.Line2D([], [], color=COLOURS[s], marker=MARKERS[s], linestyle="-", label=s)
        for s in STANCES
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure
