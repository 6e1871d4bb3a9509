"""Findings as files: JSON for programs, Markdown for readers."""

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vd.store import files
from vd.study import roles


def write_findings(
    table: pd.DataFrame, contrasts: pd.DataFrame, folder: Path, papers: Sequence[str] = ()
) -> None:
    """Write findings.json, every row of both tables, and findings.md, a page to read, into the
    study's folder. `papers` are the files of vd/findings/papers that say what was registered.
    """
    parts = {"findings": table, "contrasts": contrasts}
    rows = {
        # JSON has no NaN
        name: part.astype(object).where(part.notna(), None).to_dict("records")
        for name, part in parts.items()
    }
    files.write_json(rows, folder / "findings.json")
    files.write_text(as_markdown(table, contrasts, papers), folder / "findings.md")


def as_markdown(table: pd.DataFrame, contrasts: pd.DataFrame, papers: Sequence[str] = ()) -> str:
    """First what was registered, then what came out: what fails or is open stands in the same words
    and place as what holds.
    """
    claims = table[["finding", "statement", "paper"]].drop_duplicates()
    rows = table.assign(
        verdict="**" + table["verdict"] + "**",
        estimate=[interval(row) for row in table.itertuples()],
        **{name: [_short(value) for value in table[name]] for name in ("p_holm", "p_equal")},
    )[["model", "finding", "verdict", "estimate", "p_holm", "p_equal", "n_seeds"]]
    tests = contrasts.assign(
        estimate=[interval(row) for row in contrasts.itertuples()],
        margin=[_short(margin) for margin in contrasts["margin"].astype(float)],
    )
    tests = tests[["model", "finding", "contrast", "estimate", "margin", "n_seeds", "n_prompts"]]
    said = "".join(f"{registered(name)}\n\n" for name in papers)
    return (
        f"# Findings\n\n## What was written down first\n\n{said}"
        f"{claims.to_markdown(index=False)}\n\n## What came out\n\n"
        "A finding holds if all its contrasts are above zero; the estimate is that of the weakest. "
        "`p_holm` is corrected for all findings of its paper, `p_equal` says how sure it is that "
        "every contrast is smaller than its margin.\n\n"
        f"{rows.to_markdown(index=False)}\n\n## Contrasts\n\n{tests.to_markdown(index=False)}\n"
    )


def registered(paper: str) -> str:
    """What a paper's file says about its findings as a whole, as one text."""
    return inspect.getdoc(roles.paper(paper)) or ""


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2g}"


def interval(row) -> str:
    """Estimate [lo, hi] of a row."""
    if np.isnan(row.estimate):
        return "nothing to test"
    if np.isnan(row.lo):
        return f"{row.estimate:+.2f}"
    return f"{row.estimate:+.2f} [{row.lo:+.2f}, {row.hi:+.2f}]"
