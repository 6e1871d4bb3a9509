"""What the keys of a study have to do with each other: names, parents, numbers.

Checks yield (key, mistake and fix). What one key alone may hold is the matter of its type in
vd/study.py, and what has to be there for it that of vd/study_inputs.py.
"""

import math
from collections import Counter
from collections.abc import Iterator

from vd.study import inputs, roles
from vd.study.file import misnamed, shown, word
from vd.study.inputs import rows_of
from vd.study.steps import total_steps

Mistakes = Iterator[tuple[str, str]]
RESERVED = {  # names that something else has already, in the results folder or in tables
    "models": ("model", ("base", "data", "notebooks", "tables")),
    "sft": ("run", ("base",)),
    "preference": ("run", ("base",)),
}


def of_study(study) -> Mistakes:
    """What is wrong before anything is made of the study's entries."""
    yield from _names(study)
    for name, entry in study.sft.items():
        for key, why in (("parent", "start from the base model"), ("seeds", "take all seeds")):
            if key in entry:
                yield f"sft.{word(name)}.{key}", f"SFT runs {why}; remove it"
    for name, entry in study.preference.items():
        yield from _lineage(study, f"preference.{word(name)}", entry)
    yield from inputs.models(study)
    yield from inputs.prompt(study)
    yield from inputs.vprism(study)
    yield from inputs.probes(study)
    yield from roles.of_study(study)
    least = math.ceil(2 / study.bootstrap.alpha)  # one replicate on either side of an interval
    if study.bootstrap.resamples < least:
        too_few = f"too few for alpha {study.bootstrap.alpha:g}"
        yield "bootstrap.resamples", f"{too_few}; write at least {least}"


def of_runs(study, runs: dict) -> Mistakes:
    """What is wrong with runs, one by one and together."""
    trained = [run for run in runs.values() if run.settings]
    for run in trained:
        key, settings = f"{run.phase}.{run.name}", run.settings
        yield from inputs.data(f"{key}.data", settings.data, run.phase)
        yield from inputs.filters(f"{key}.filters", settings.data, settings.filters)
        yield from _numbers(key, settings)
        if run.phase == "preference" and settings.lora != runs[run.parent].settings.lora:
            parent = run.parent.split("/")[1]
            why = f"differs from that of its parent {parent}, whose adapters it trains on"
            yield f"{key}.lora", f"{why}; write the same"
    yield from _checkpoints(study.probing.checkpoints, [run.settings for run in trained])
    lineages = {run.lineage: run for run in runs.values()}
    yield from roles.of_runs(study, runs)
    for name, ablation in study.ablations.items():
        yield from _ablation(f"ablations.{word(name)}", ablation, lineages)


def _names(study) -> Mistakes:
    for section, (what, reserved) in RESERVED.items():
        names = getattr(study, section)
        alike = Counter(name.lower() for name in names)
        for name in names:
            if wrong := misnamed(name, what, reserved):
                yield f"{section}.{word(name)}", wrong
            elif alike[name.lower()] > 1:
                why = "differs from another name in case only, and some systems ignore case"
                yield f"{section}.{name}", f"{why}; rename one"


def _lineage(study, key: str, entry: dict) -> Mistakes:
    """Parents and seeds are those of the study; of which form they are is checked elsewhere."""
    parents, seeds = entry.get("parent", []), entry.get("seeds", [])
    for parent in parents if isinstance(parents, list) else [parents]:
        if isinstance(parent, str) and parent not in study.sft:
            there = ", ".join(map(word, study.sft))
            yield f"{key}.parent", f"no SFT run '{word(parent)}'; there are {there}"
    if isinstance(seeds, list) and any(seed not in study.seeds for seed in seeds):
        why = f"{shown(seeds)} are not all among seeds {shown(study.seeds)}"
        yield f"{key}.seeds", f"{why}; write some of those"


def _numbers(key: str, settings) -> Mistakes:
    """Numbers of a run against the number of its examples, where that is known."""
    rows, held = _rows(settings), rows_of(settings.data)
    if held and rows > held:
        yield f"{key}.examples", f"'{settings.data}' has {held}; write at most that, or remove it"
        return
    yield from _warm_up(key, settings, rows)
    if not hasattr(settings, "reward"):
        return
    reward = settings.reward
    if rows and rows < settings.batch_size:
        why = f"a batch takes {settings.batch_size} prompts, and there are {rows}"
        yield f"{key}.batch_size", f"{why}; lower it"
    if rows and not 1 <= round(rows * reward.held_out) <= rows - 2:
        why = f"{reward.held_out:g} of {rows} pairs leaves too few on one side"
        yield f"{key}.reward.held_out", f"{why}; write another share, such as 0.2"
    yield from _warm_up(f"{key}.reward", reward, rows and round(rows * (1 - reward.held_out)))


def _warm_up(key: str, settings, rows: int | None) -> Mistakes:
    steps = _steps(settings, rows)
    if steps and settings.warmup_steps >= steps:
        why = f"the learning rate is never reached in {steps} steps"
        yield f"{key}.warmup_steps", f"{why}; write fewer"


def _rows(settings) -> int | None:
    """Examples that a run takes, where that is known without reading its data."""
    return settings.examples or rows_of(settings.data)


def _steps(settings, rows: int | None) -> int | None:
    return settings.steps or (rows and total_steps(settings, rows))


def _checkpoints(wanted: str | list[int], trained: list) -> Mistakes:
    """Steps that are named are saved by some run."""
    for step in wanted if isinstance(wanted, list) else []:
        if not any(_saves(settings, step) for settings in trained):
            spacings = ", ".join(map(str, sorted({settings.save_every for settings in trained})))
            why = f"no run saves step {step}, where save_every is {spacings}"
            yield "probing.checkpoints", f"{why}; write all, last, or steps that are saved"


def _saves(settings, step: int) -> bool:
    last = _steps(settings, _rows(settings))
    return step == last or (step % settings.save_every == 0 and (last is None or step < last))


def _ablation(key: str, ablation, lineages: dict) -> Mistakes:
    """The runs are there and differ in a number."""
    values, varied = [], word(ablation.key)
    for name in ablation.runs:
        run = lineages.get(name)
        if run is None:
            there = ", ".join(sorted(lineages))
            yield f"{key}.runs", f"no run '{word(name)}'; there are {there}"
        elif not run.settings or ablation.key not in type(run.settings).model_fields:
            yield f"{key}.key", f"'{varied}' is not a key of {name}; write a key of all its runs"
        else:
            values.append(getattr(run.settings, ablation.key))
    if not all(type(value) in (int, float) for value in values):
        yield f"{key}.key", f"'{varied}' is not a number in all its runs; write a key that is"
    elif len(values) == len(ablation.runs) and len(set(values)) == 1:
        why = f"{varied} is {values[0]:g} in all of them"
        yield f"{key}.runs", f"{why}; name runs that differ in it"
