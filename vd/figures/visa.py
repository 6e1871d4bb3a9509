"""What becomes of rewritings and of an ordered value (VISA, arXiv 2603.04822): tables and figures.

Measures are those of vd/evaluations/metrics/rewriting.py and values.py, of all runs and seeds.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vd.figures import curves
from vd.figures.style import distinct
from vd.lineages import short_names, split_seed
from vd.values import NAMES, NEAR, OTHERS

MEASURES = {  # of rewritings, and which way is better
    ("rewriting", "JSR"): "more",
    ("rewriting", "consistency"): "more",
    ("rewriting", "forward"): "more",
    ("rewriting", "backward"): "more",
    ("rewriting", "L2"): "less",
    ("rewriting", "cosine"): "more",
    ("rewriting", "untouched"): "less",
    ("rewriting", "copies"): "less",
    ("rewriting", "length"): "",
    ("rewriting", "JSR of one value"): "more",
    ("rewriting", "JSR of several values"): "more",
    ("rewriting", "JSR of half a step"): "more",
    ("rewriting", "JSR of a whole step"): "more",
}
REPORTED = {  # by the paper, second-hand: of Llama-3.1-8B on 45,000 triples
    "SFT": {"consistency": 0.1757, "L2": 0.8761, "JSR": 0.0817},
    "DPO": {"consistency": 0.4019, "L2": 0.8138, "JSR": 0.3395},
    "SimPO": {"consistency": 0.4098, "L2": 0.8127, "JSR": 0.3510},
    "GRPO": {"consistency": 0.8195, "L2": 0.7421, "JSR": 0.6502},
}
TRAINED = ("consistency", "cosine", "cosine (reward)", "copies", "length")  # looked at over steps


def reported() -> pd.DataFrame:
    """The paper's numbers, second-hand, a row per method."""
    return pd.DataFrame(REPORTED).T.rename_axis("rewriter (8B, the paper's)")


def by_threshold(measured: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """The joint success rate at each threshold of L2, at the end of every run: run, threshold,
    value, lo, hi, n_seeds.
    """
    names = {f"JSR at L2 < {t:g}": t for t in OTHERS} | {"JSR": NEAR}
    rows = measured[measured["evaluation"] == "rewriting"]
    rows = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
    rows = rows.assign(threshold=rows["metric"].map(names)).dropna(subset="threshold")
    return curves.over_seeds(rows, "threshold", alpha)


def moved_by(measured: pd.DataFrame, ordered: str) -> pd.DataFrame:
    """How far each run has moved a value, and the nine others, since its start: run, seed, step,
    ordered, elsewhere (Euclidean).
    """
    rows = measured[(measured["evaluation"] == "values") & measured["metric"].isin(NAMES)]
    points = rows.pivot(index=["run", "step"], columns="metric", values="value")
    moved = points - points.groupby("run").transform("first")
    others = [name for name in NAMES if name != ordered]
    table = pd.DataFrame(
        {"ordered": moved[ordered], "elsewhere": np.linalg.norm(moved[others], axis=1)}
    ).reset_index()
    parts = split_seed(table["run"]).rename(columns={"name": "lineage"})
    return table.assign(run=short_names(parts["lineage"]), seed=parts["seed"])


def threshold_curves(table: pd.DataFrame) -> Figure:
    """`by_threshold`: a line per run; the dashed line is the paper's threshold."""
    figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    curves.lines(ax, table, "threshold")
    ax.axvline(NEAR, color="#999999", linestyle="--", linewidth=0.8)
    ax.set(xlabel="L2 below", ylabel="joint success rate", ylim=(0, 1))
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def order_and_rest(table: pd.DataFrame, ordered: str) -> Figure:
    """`moved_by`: the nine other values over the ordered one, a path per run and seed."""
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    colours = distinct(table["run"].unique())
    for (run, seed), path in table.groupby(["run", "seed"], sort=False):
        label = run if seed == table.loc[table["run"] == run, "seed"].iloc[0] else None
        style = {"color": colours[run], "marker": "o", "markersize": 3, "linewidth": 1}
        ax.plot(path["ordered"], path["elsewhere"], label=label, **style)
    ax.axvline(0, color="#bbbbbb", linewidth=0.8)
    ax.set(xlabel=f"change of {ordered}", ylabel="change of the nine others")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
