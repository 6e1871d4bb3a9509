"""Tables for reading: drift with intervals as CSV, Markdown and LaTeX."""

from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.lineages import short_names
from vd.store import files, shown
from vd.store.files import read_json
from vd.study.load import Study


def drift_by_topic(drift: pd.DataFrame, stance: str) -> pd.DataFrame:
    """Drift magnitude [interval] and time of one stance: a row per topic, a column per run."""
    rows = drift[drift["stance"] == stance]
    cells = rows.assign(run=short_names(rows["run"]), cell=_cells(rows))
    return cells.pivot_table(
        index="topic", columns="run", values="cell", aggfunc="first", sort=False
    ).reset_index()


def drift_overall(drift: pd.DataFrame) -> pd.DataFrame:
    """Drift magnitude [interval] and time over all topics: a row per run, a column per stance."""
    rows = drift[drift["topic"] == "all"]
    cells = rows.assign(run=short_names(rows["run"]), cell=_cells(rows))
    return cells.pivot_table(
        index="run", columns="stance", values="cell", aggfunc="first", sort=False
    ).reset_index()


def scorer_quality(study: Study) -> pd.DataFrame:
    """How good the scorers of a study are, by their records: one row each, `run` first."""
    scorers = [run.id for run in study.runs().values() if run.makes == "scorer"]
    rows = [read_json(paths.record(study.name, run, "train"))["details"] for run in scorers]
    return pd.DataFrame(
        [{"run": run} | row.get("quality", {}) for run, row in zip(scorers, rows, strict=True)]
    )


def pair_accuracy(study: Study) -> pd.DataFrame:
    """How well preference runs tell chosen from rejected replies in pairs that they have not seen
    yet: a row per run without its seed, with run, pairs, accuracy, its standard error and margin.

    A batch's accuracy (share of pairs with a positive margin) is measured before the step that
    learns from it, so in the first epoch it is that of new pairs. The second half of that epoch is
    taken, which is after most of the learning; all seeds together. Without runs on pairs: no rows.
    """
    rows = []
    for run in study.policies().values():
        file = paths.metrics(study.name, run.id)
        metrics = pd.read_csv(file) if file.exists() else pd.DataFrame()
        if "rewards/accuracies" not in metrics:
            continue
        new = metrics[metrics["epoch"] <= 1]
        new = new[new["step"] > new["step"].max() // 2]
        size = run.settings.batch_size
        means = new[["rewards/accuracies", "rewards/margins"]].mean()
        rows.append((f"{run.model}/{run.lineage}", len(new) * size, *means))
    table = pd.DataFrame(rows, columns=["run", "pairs", "accuracy", "margin"])
    found = table.groupby("run", sort=False).agg(
        pairs=("pairs", "sum"), accuracy=("accuracy", "mean"), margin=("margin", "mean")
    )
    error = np.sqrt(found["accuracy"] * (1 - found["accuracy"]) / found["pairs"])
    found.insert(2, "accuracy_se", error)
    return found.reset_index()


def findings(study: str) -> pd.DataFrame:
    """What 08_findings decided: statement, verdict, paper, estimate, lo, hi; no row where a study
    tests nothing, or has not come so far.
    """
    file = paths.table(study, "findings.json")
    found = read_json(file)["findings"] if file.exists() else []
    table = pd.DataFrame(found, columns=["statement", "verdict", "paper", "estimate", "lo", "hi"])
    return table.astype({"estimate": float, "lo": float, "hi": float})  # JSON has no NaN


def verdicts(study: Study, *papers: str) -> str:
    """`findings` of a study that speaks to one of these papers, to print."""
    found = findings(study.name)
    if not study.findings.keys() & set(papers) or found.empty:
        return "this study names no run for these expectations"
    columns = ["statement", "estimate", "lo", "hi", "verdict"]
    return found[columns].round(2).to_string(index=False)


def write(table: pd.DataFrame, path: Path, caption: str) -> None:
    """Write `path`.csv, .md and .tex, each atomically."""
    files.write_table(table, path.with_suffix(".csv"))
    files.write_text(shown.markdown(table) + "\n", path.with_suffix(".md"))
    # pandas escapes cells and no caption
    escaped = caption.replace("%", r"\%").replace("&", r"\&").replace("_", r"\_")
    latex = table.to_latex(index=False, escape=True, caption=escaped, label=f"tab:{path.stem}")
    # after escaping, which would take the formula for text
    files.write_text(latex.replace("→", r"$\to$"), path.with_suffix(".tex"))


def _cells(rows: pd.DataFrame) -> list[str]:
    """Magnitude [interval], time; a dash where there may be no drift, and no times at all where
    none can be told, as with two checkpoints.
    """
    told = rows["time"].notna().any()
    return [
        f"{row.magnitude:+.2f} [{row.magnitude_lo:+.2f}, {row.magnitude_hi:+.2f}]"
        + (f", {'–' if np.isnan(row.time) else f'{row.time:.2f}'}" if told else "")
        for row in rows.itertuples()
    ]
