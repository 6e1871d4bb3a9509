"""A study as one page that works without a server or a network.

    python -m vd STUDY --report             writes results/<study>/report.html

Question, headline figures, findings, the tree of runs, what every run said at every checkpoint with
filters, cost and environment. Texts of models and of others are escaped by the template.
"""

import base64
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from vd import paths
from vd.figures import tables
from vd.figures.replies import judged
from vd.findings.report import interval
from vd.lineages import short_names
from vd.store import files
from vd.store.files import read_json
from vd.store.recorded import found
from vd.store.shown import visible
from vd.study.load import Study

FIGURES = {  # those that are there are shown, in this order
    "branches": "One stance through all of training: SFT, then preference runs as branches",
    "acquiescence_lean": "Agreeing with the question against leaning to a side of the topic",
    "drift_against_kl": "Drift against the divergence from the start, in nats per reply",
    "findings": "Every contrast behind the findings, with its interval",
}


def write_report(study: Study) -> Path:
    """Write the page; FileNotFoundError, with the fix, where runs are not judged yet."""
    needed = [found(paths.stances(study.name, run), study.name) for run in study.policies()]
    if missing := [file for file in needed if not file.exists()]:
        fix = f"run ./reproduce.sh {study.name} first"
        raise FileNotFoundError(f"{missing[0]}: {len(missing)} runs are not judged yet; {fix}")
    file = paths.table(study.name, "report.html")
    files.write_text(page(study), file)
    return file


def page(study: Study) -> str:
    """The page as HTML."""
    name = study.name
    here = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    runs = [run for run in study.policies().values() if run.seed == study.seeds[0]]
    said = {run.id: judged(name, run.id).query("sample == 0") for run in runs}
    names = dict(zip(said, short_names(pd.Series(list(said))), strict=True))
    asked = next(iter(said.values()))
    records = {run: read_json(found(paths.record(name, run, "run"), name)) for run in said}
    stages = list(dict.fromkeys(s for record in records.values() for s in record["wall_seconds"]))
    return here.get_template("report.html").render(
        study=name,
        seeds=len(study.seeds),
        prompts=asked["prompt_id"].nunique(),
        topics=asked["topic"].nunique(),
        topic_names=list(asked["topic"].unique()),
        figures=list(_figures(name)),
        findings=_findings(name),
        runs=_tree(study),
        replies=[_rows(names[run], table) for run, table in said.items()],
        stages=stages,
        costs=[_cost(names[run], record, stages) for run, record in records.items()],
        environment=_environment(next(iter(records.values()))),
        notebooks=_notebooks(name),
    )


def _rows(name: str, table: pd.DataFrame) -> dict:
    """A run's replies as rows of cells, a column per checkpoint."""
    steps, rows = sorted(map(int, table["step"].unique())), []
    for _, own in table.groupby("prompt_id", sort=False):
        first = own.iloc[0]
        cells = [
            {"stance": reply.label, "reply": visible(reply.response)}
            for reply in own.sort_values("step").itertuples()
        ]
        about = {"prompt": visible(first["prompt"]), "topic": first["topic"], "cells": cells}
        rows.append(about | {"changed": cells[0]["stance"] != cells[-1]["stance"]})
    return {"name": name, "steps": steps, "rows": rows}


def _findings(study: str) -> list[dict]:
    """What was decided, with intervals in words."""
    rows = tables.findings(study).itertuples()
    return [row._asdict() | {"interval": interval(row)} for row in rows]


def _figures(study: str):
    for name, words in FIGURES.items():
        file = Path(f"{paths.figure(study, name)}.png")
        if file.exists():
            yield {"alt": words, "data": base64.b64encode(file.read_bytes()).decode()}


def _tree(study: Study) -> list[dict]:
    """Runs of the first seed under the runs that they start from."""
    runs = [run for run in study.runs().values() if run.seed == study.seeds[0]]
    nodes = {run.id: {"name": run.id, "about": _about(run), "children": []} for run in runs}
    for run in runs:
        if run.parent in nodes:
            nodes[run.parent]["children"].append(nodes[run.id])
            nodes[run.id]["name"] = run.name
    return [nodes[run.id] for run in runs if run.parent not in nodes]


def _about(run) -> str:
    if run.is_base:
        return "the model as it came"
    data = getattr(run.settings, "data", None)
    return run.method + (f" on {data}" if data else "")


def _cost(name: str, record: dict, stages: list[str]) -> dict:
    seconds = [round(record["wall_seconds"].get(stage, 0)) for stage in stages]
    seen, generated = record.get("tokens_seen"), record.get("tokens_generated")
    return {"run": name, "seconds": seconds, "seen": seen, "generated": generated}


def _environment(record: dict) -> dict:
    hardware = {name: value for name, value in record["hardware"].items() if value is not None}
    return record["versions"] | hardware | {"commit": record["git_commit"]}


def _notebooks(study: str) -> list[str]:
    """Executed copies, as paths from the page."""
    folder = paths.results(study)
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.ipynb"))
