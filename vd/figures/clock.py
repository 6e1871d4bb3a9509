"""What a change costs: drift against the divergence from the start."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vd.data.probes import load_probes
from vd.drift import traces
from vd.figures.style import distinct
from vd.lineages import of_model, short_names
from vd.study.load import Study

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def moved(study: Study, logits: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """What every run of which KL is measured moved by, see `vd.drift.traces.Traces.against_kl`,
    with the columns run (without its seed), method and data.

    Takes what `vd.drift.traces.read` returns. Which way pairs are turned is part of what data they
    are.
    """
    polarity = load_probes(study.probing).set_index("prompt_id")["polarity"]
    clocked = traces.clock_of(measured)["run"].unique()
    found = []
    for model in study.models:
        runs = {
            r.lineage: r for i, r in study.policies().items() if i in clocked and r.model == model
        }
        own = [of_model(table, model) for table in (logits, measured)]
        of_runs = traces.Traces(*own, polarity, {lineage: lineage for lineage in runs})
        for lineage, run in runs.items():
            about = {"run": f"{model}/{lineage}", "method": run.method, "data": _data(run.settings)}
            found.append(of_runs.against_kl(lineage).assign(**about))
    return pd.concat(found, ignore_index=True)


def _data(settings) -> str:
    turned = ", labels switched" if getattr(settings, "swap_labels", False) else ""
    by_side = getattr(settings, "aligned_with", None) == "proposition"
    planted = getattr(settings, "planted", None)
    biased = f", {planted.strength:g} {planted.prefers}" if planted else ""
    return settings.data + turned + (", by proposition" if by_side else "") + biased


def drift_against_kl(table: pd.DataFrame) -> Figure:
    """Drift of acquiescence and of lean over KL, whose axis is a square root: data sets are
    colours, methods marks, hollow and dashed where another run has the same of both; bars are the
    standard deviation over seeds.

    `table` is that of `moved`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    colours = distinct(table["data"].unique())
    marks = dict(zip(table["method"].unique(), MARKS, strict=False))
    first = table.groupby("run", sort=False)[["method", "data"]].first()
    again = {short_names(first.index.to_series())[run] for run in first.index[first.duplicated()]}
    table = table.assign(run=short_names(table["run"]))
    for ax, measure in zip(axes, ("acquiescence", "lean"), strict=True):
        for run, rows in table.groupby("run", sort=False):
            first = rows.iloc[0]
            ax.errorbar(
                rows["kl"],
                rows[measure],
                xerr=rows["kl_sd"].fillna(0),
                yerr=rows[f"{measure}_sd"].fillna(0),
                color=colours[first["data"]],
                marker=marks[first["method"]],
                markersize=4,
                markerfacecolor="white" if run in again else None,
                linestyle="--" if run in again else "-",
                linewidth=1,
                elinewidth=0.7,
                label=f"{run} ({first['data']})",
            )
        ax.axhline(0, color="#bbbbbb", linewidth=0.8)
        ax.set_xscale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
        ax.set(xlabel="nats per reply from the start", title=measure)
        ax.set_xlim(left=0)
    axes[0].set_ylabel("drift, log-odds of Yes")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
