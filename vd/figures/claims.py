"""Findings in one picture: every contrast with its interval, under what is claimed."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe-Ito and Tol, without those that mean a stance; grey for what is open
COLOURS = {
    "above zero": "#009e73",
    "below zero": "#882255",
    "within the margin": "#e69f00",
    "open": "#999999",
}
# what a paper is said to report: larger models, other data
REPORTED = {"marker": "D", "color": "black", "markerfacecolor": "none", "linestyle": "none"}
LINE, WIDTH = 0.23, 115  # inches of a line, characters of a claim


def contrasts_by_claim(contrasts: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Every contrast with its 95 % interval, a panel per unit, each under its finding's statement
    and verdict. Both tables of `vd.findings.verdicts.evaluate`.

    A colour is that of the contrast alone, uncorrected: its interval lies above zero, below, or,
    holding zero, within its margin. The verdict is that of the whole finding, corrected.
    """
    keys = ["model", "finding"]
    rows = contrasts.merge(table[[*keys, "statement", "verdict"]], on=keys)
    rows = rows.assign(colour=[_said(row) for row in rows.itertuples()])
    several = rows.loc[rows["model"] != "data", "model"].nunique() > 1  # `data` is no model
    parts = {unit: _placed(part, several) for unit, part in rows.groupby("unit", sort=False)}
    handles = [plt.Line2D([], [], color=c, marker="o", label=name) for name, c in COLOURS.items()]
    if rows["reported"].notna().any():
        handles.append(plt.Line2D([], [], label="said of the paper, second-hand", **REPORTED))
    heights = [lines + 2.5 for _, _, lines in parts.values()]
    figure, axes = plt.subplots(
        len(parts),
        1,
        figsize=(7.5, LINE * sum(heights) + 0.4),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for ax, (unit, (part, heads, lines)) in zip(axes[:, 0], parts.items(), strict=True):
        _draw(ax, part, heads)
        ax.set(
            xlabel=f"contrast, {unit} (above zero speaks for the claim)", ylim=(lines + 0.1, -0.3)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _said(row) -> str:
    """What a contrast says by itself."""
    if np.isnan(row.lo):
        return "open"
    if row.lo > 0 or row.hi < 0:
        return "above zero" if row.lo > 0 else "below zero"
    inside = row.margin is not None and -row.margin < row.lo and row.hi < row.margin
    return "within the margin" if inside else "open"


def _placed(rows: pd.DataFrame, several: bool) -> tuple[pd.DataFrame, list[tuple], float]:
    """Contrasts with the line `y` that each stands on, headings (line, text), lines in all."""
    heads, places, y = [], [], 0.0
    for (model, _), part in rows.groupby(["model", "finding"], sort=False):
        first = part.iloc[0]
        name = f"{model}: " if several else ""
        text = textwrap.fill(f"{name}{first.statement}. [{first.verdict}]", WIDTH)
        heads.append((y, text))
        y += 0.55 + 0.55 * (text.count("\n") + 1)
        places += [y + i for i in range(len(part))]
        y += len(part) - 0.2
    return rows.assign(y=places), heads, y


def _draw(ax: Axes, rows: pd.DataFrame, heads: list[tuple]) -> None:
    for said, colour in COLOURS.items():
        part = rows[rows["colour"] == said]
        ax.hlines(part["y"], part["lo"], part["hi"], color=colour, linewidth=1.6)
        ax.scatter(part["estimate"], part["y"], color=colour, s=22, zorder=3)
    ax.plot(rows["reported"].astype(float), rows["y"], markersize=5, **REPORTED)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(rows["y"], rows["contrast"], fontsize=8)
    ax.grid(axis="y", visible=False)
    for y, text in heads:
        # across the whole figure: claims are longer than the labels beside the axis
        where = {"xycoords": ("figure fraction", "data"), "va": "top"}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        ax.annotate(text, (0.01, y), fontsize=8, bbox=box, **where).set_in_layout(False)
