"""The bill before it comes: a study's jobs by model and stage, totals, and what does not fit.

python -m vd STUDY --plan [--gpus 8] [--gpu h100]
"""

import pandas as pd

from vd.costs import estimate, schedule
from vd.costs.cards import CARDS, SPARE, Card
from vd.costs.estimate import Job
from vd.study.load import Study

COLUMNS = ["model", "stage", "jobs", "GPUs", "steps", "tokens", "GPU-hours", "GB a GPU", "disk, GB"]


def bill(study: Study, card: Card, gpus: int) -> tuple[str, list[str]]:
    """The plan as text, and what cannot run as it is written: which runs, why, what to change.

    LookupError for a model whose size is not known.
    """
    jobs = list(estimate.jobs(study, card))
    wrong = list(_wrong(jobs, card, gpus))
    hours = sum(job.seconds * job.gpus for job in jobs) / 3600
    # what stays, and what the largest runs keep beside while as many work at once as can
    working = sorted((job.scratch for job in jobs), reverse=True)[:gpus]
    disk = sum(job.disk for job in jobs) + sum(working)
    lines = [
        f"{study.name} on {gpus} x {card.name}, at {card.training:.0%} of its peak in training and "
        f"{card.writing:.0%} of its limits in writing",
        "",
        table(jobs).to_string(index=False),
        "",
        f"in all        {hours:,.0f} GPU-hours; {_size(disk)} of checkpoints",
        f"longest chain {_time(schedule.longest_chain(jobs))}",
    ]
    if not any(job.gpus > gpus for job in jobs):
        lines.append(f"wall time     {_time(schedule.wall_time(jobs, gpus))} on {gpus} GPUs")
    if calls := sum(job.calls for job in jobs):
        lines.append(f"API judge     {calls:,} calls, ${sum(job.dollars for job in jobs):,.0f}")
    if guessed := sorted({what for job in jobs for what in job.guessed}):
        lines.append(f"not known     {', '.join(guessed)}: guessed")
    return "\n".join(lines), wrong


def table(jobs: list[Job]) -> pd.DataFrame:
    """One row per model, stage and method: COLUMNS."""
    rows = [
        {
            "model": job.model,
            "stage": f"{job.stage} {job.what}",
            "jobs": 1,
            "GPUs": job.gpus,
            "steps": job.steps,
            "tokens": job.tokens,
            "GPU-hours": job.seconds * job.gpus / 3600,
            "GB a GPU": job.memory / 1e9,
            "disk, GB": job.disk / 1e9,
        }
        for job in jobs
    ]
    summed = dict.fromkeys(("jobs", "steps", "tokens", "GPU-hours", "disk, GB"), "sum")
    how = summed | dict.fromkeys(("GPUs", "GB a GPU"), "max")
    found = pd.DataFrame(rows).groupby(["model", "stage"], sort=False).agg(how).reset_index()
    found["tokens"] = [_short(tokens) for tokens in found["tokens"]]
    places = {"GPU-hours": 1, "GB a GPU": 1, "disk, GB": 1}
    return found.round(places)[COLUMNS]


def card_of(name: str) -> Card:
    """A card by its name; LookupError with those that are known."""
    if name not in CARDS:
        raise LookupError(f"no card '{name}'; write one of {', '.join(CARDS)}")
    return CARDS[name]


def _wrong(jobs: list[Job], card: Card, gpus: int):
    """What cannot run, runs of one kind on one line."""
    room, large, wide = card.memory * (1 - SPARE), {}, {}
    for job in jobs:
        kind = f"{job.model}: {job.stage} {job.what}"
        if job.memory > room:
            large.setdefault((kind, job.fix or "take a larger card"), []).append(job.memory)
        if job.gpus > gpus:
            wide.setdefault((kind, job.gpus), []).append(job)
    for (kind, fix), needs in large.items():
        said = f"{len(needs)} runs need up to {max(needs) / 1e9:,.0f} GB on a GPU"
        yield f"{kind}: {said}, and {room / 1e9:,.0f} can be used; {fix}"
    for (kind, wanted), runs in wide.items():
        said = f"{len(runs)} runs want {wanted} GPUs, and there are {gpus}"
        yield f"{kind}: {said}; lower processes, or plan with --gpus {wanted}"


def _time(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.1f} days"


def _size(n: float) -> str:
    return f"{n / 1e12:,.1f} TB" if n >= 1e12 else f"{n / 1e9:,.1f} GB"


def _short(n: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= limit:
            return f"{n / limit:.1f} {unit}"
    return f"{n:.0f}"
