"""What becomes of feedback by a model: chains of revisions, and biases of labels (Bai et al. 2022,
arXiv 2212.08073; Lee et al. 2023, arXiv 2309.00267).
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from vd.figures.lab import mean_over_seeds
from vd.figures.style import distinct
from vd.findings.papers.planted_bias import BIASES, METHODS, STRENGTHS
from vd.lineages import parts
from vd.study.load import Study
from vd.study.roles import played

PAPER = "planted-bias"  # whose roles say which run learns from which labels


def states(tried: pd.DataFrame) -> pd.DataFrame:
    """Steps of chains as vd/recipes/kinds/critique_revise.py keeps them: step (0 is the reply),
    chains, harmful (share, where a judge said it), and shares of states of revisions.
    """
    steps = [name for name in tried if name.startswith("harmful_")]
    rows = []
    for n, column in enumerate(steps):
        row = {"step": n, "chains": len(tried), "harmful": tried[column].astype(float).mean()}
        if n:
            row |= tried[f"state_{n}"].value_counts(normalize=True).to_dict()
        rows.append(row)
    return pd.DataFrame(rows).set_index("step")


def amplification(study: Study, measured: pd.DataFrame) -> pd.DataFrame:
    """Biases of labels and of policies at the end (vd/findings/papers/planted_bias.py): method,
    bias, strength, labels (their bias), value (the policy's beyond that of coin flips) with lo, hi
    and n_seeds, and amplification, their ratio.
    """
    roles = played(study)[PAPER].model_dump()
    rows = measured[measured["evaluation"] == "preference"]
    rows = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
    rows = pd.concat([rows, parts(rows["run"])], axis=1)
    rows = rows.set_index(["lineage", "metric", "model", "seed"])["value"].sort_index()
    table = []
    for method in METHODS:
        for bias in BIASES:
            who = {one: roles[f"{method}_{bias}_{one}"] for one in STRENGTHS}
            for one in [one for one, run in who.items() if one != "0" and run and who["0"]]:
                share, coin = (rows.loc[who[s], f"accuracy {bias}"] for s in (one, "0"))
                beyond = (share - coin).dropna()
                own = pd.DataFrame({"value": beyond, "lo": float("nan"), "hi": float("nan")})
                found = mean_over_seeds(own, study.bootstrap.alpha)
                about = {"method": method, "bias": bias, "strength": STRENGTHS[one]}
                labels = STRENGTHS[one] / 2
                ratio = found["value"] / labels
                table.append({**about, "labels": labels, **found, "amplification": ratio})
    return pd.DataFrame(table)


def amplified(table: pd.DataFrame) -> Figure:
    """`amplification`: a panel per bias, a policy's bias over that of its labels, a line per
    method; on the dashed line a policy has the bias of its labels.
    """
    biases = list(table["bias"].unique())
    colours = distinct(table["method"].unique())
    size = (2.4 * len(biases) + 1, 2.6)
    figure, axes = plt.subplots(
        1, len(biases), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, bias in zip(axes[0], biases, strict=True):
        ax.plot([0, 0.5], [0, 0.5], color="#999999", linestyle="--", linewidth=0.8)
        for method, own in table[table["bias"] == bias].groupby("method", sort=False):
            reach = [own["value"] - own["lo"], own["hi"] - own["value"]]
            style = {"color": colours[method], "marker": "o", "markersize": 3, "capsize": 2}
            ax.errorbar(own["labels"], own["value"], reach, label=method, linewidth=1, **style)
        ax.set(title=BIASES[bias], xlabel="bias of the labels", xlim=(0, 0.55))
    axes[0, 0].set(ylabel="bias of the policy")
    handles = {h.get_label(): h for ax in axes[0] for h in ax.get_legend_handles_labels()[0]}
    figure.legend(handles=handles.values(), loc="outside right upper", fontsize=8)
    return figure
