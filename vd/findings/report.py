"""Findings as files: JSON for programs, Markdown for readers."""

from pathlib import Path

import numpy as np
import pandas as pd

from vd.store import files


def write_findings(table: pd.DataFrame, contrasts: pd.DataFrame, folder: Path) -> None:
    """Write findings.json, every row of both tables, and findings.md, a page to read, into the
    study's folder.
    """
    parts = {"findings": table, "contrasts": contrasts}
    rows = {
        # JSON has no NaN
        name: part.astype(object).where(part.notna(), None).to_dict("records")
        for name, part in parts.items()
    }
    files.write_json(rows, folder / "findings.json")
    files.write_text(as_markdown(table, contrasts), folder / "findings.md")


def as_markdown(table: pd.DataFrame, contrasts: pd.DataFrame) -> str:
    """Both tables as Markdown, what fails or is open in the same words and place as what holds."""
    rows = table.assign(
        finding=table["statement"] + " (`" + table["finding"] + "`)",
        verdict="**" + table["verdict"] + "**",
        estimate=[interval(row) for row in table.itertuples()],
        p_holm=["" if np.isnan(p) else f"{p:.2g}" for p in table["p_holm"]],
    )[["model", "finding", "verdict", "estimate", "p_holm", "paper"]]
    tests = contrasts.assign(estimate=[interval(row) for row in contrasts.itertuples()])
    tests = tests[["model", "finding", "contrast", "estimate", "n_seeds", "n_prompts"]]
    return (
        "# Findings\n\nA finding holds if all its contrasts are above zero; the estimate is that "
        "of the weakest.\n\n"
        f"{rows.to_markdown(index=False)}\n\n## Contrasts\n\n{tests.to_markdown(index=False)}\n"
    )


def interval(row) -> str:
    """Estimate [lo, hi] of a row."""
    if np.isnan(row.estimate):
        return "nothing to test"
    if np.isnan(row.lo):
        return f"{row.estimate:+.2f}"
    return f"{row.estimate:+.2f} [{row.lo:+.2f}, {row.hi:+.2f}]"
