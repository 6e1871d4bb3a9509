"""What a change costs: drift against the divergence from the start."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from vd.lineages import short_names
from vd.study.load import Study

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def described(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """A table of `vd.drift.traces.Traces.against_kl`, whose roles are lineages, with the columns
    method and data of each; which way pairs are turned is part of what data they are.
    """
    runs = {run.lineage: run for run in study.policies().values()}

    def data(lineage: str) -> str:
        settings = runs[lineage].settings
        turned = ", labels switched" if getattr(settings, "swap_labels", False) else ""
        by_side = getattr(settings, "aligned_with", None) == "proposition"
        return settings.data + turned + (", by proposition" if by_side else "")

    return table.assign(
        method=[runs[lineage].method for lineage in table["role"]],
        data=[data(lineage) for lineage in table["role"]],
    )


def drift_against_kl(table: pd.DataFrame) -> Figure:
    """Drift of acquiescence and of lean over KL, whose axis is a square root: data sets are
    colours, methods marks; bars are the standard deviation over seeds.

    `table` is that of `described`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    colours = dict(zip(table["data"].unique(), sns.color_palette("tab10"), strict=False))
    marks = dict(zip(table["method"].unique(), MARKS, strict=False))
    names = dict(zip(table["role"], short_names("m/" + table["role"]), strict=True))
    for ax, measure in zip(axes, ("acquiescence", "lean"), strict=True):
        for role, rows in table.groupby("role", sort=False):
            first = rows.iloc[0]
            ax.errorbar(
                rows["kl"],
                rows[measure],
                xerr=rows["kl_sd"].fillna(0),
                yerr=rows[f"{measure}_sd"].fillna(0),
                color=colours[first["data"]],
                marker=marks[first["method"]],
                markersize=4,
                linewidth=1,
                elinewidth=0.7,
                label=f"{names[role]} ({first['data']})",
            )
        ax.axhline(0, color="#bbbbbb", linewidth=0.8)
        ax.set_xscale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
        ax.set(xlabel="nats per reply from the start", title=measure)
        ax.set_xlim(left=0)
    axes[0].set_ylabel("drift, log-odds of Yes")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
