"""What the keys of a study have to do with each other: names, parents, numbers.

Checks yield (key, mistake and fix). What one key alone may hold is the matter of its type in
vd/study/settings.py, and what has to be there for it that of vd/study/inputs.py.
"""

import math
from collections import Counter
from collections.abc import Iterator

from vd import lineages
from vd.study import evaluations, inputs, recipes, roles
from vd.study.catalogue import EMBEDDED, PUBLIC
from vd.study.file import misnamed, shown, word
from vd.study.graph import SECTIONS, made_by_recipes, missing
from vd.study.inputs import rows_of
from vd.study.steps import total_steps

Mistakes = Iterator[tuple[str, str]]
RESERVED = {  # names that something else has already, in the results folder or in tables
    "models": ("model", ("base", "data", "notebooks", "recipes", "tables")),
    "sft": ("run", ("base",)),
    "scorers": ("run", ("base",)),
    "preference": ("run", ("base",)),
    "recipes": ("recipe", tuple(EMBEDDED) + tuple(PUBLIC)),
}


def of_study(study) -> Mistakes:
    """What is wrong before anything is made of the study's entries."""
    yield from _names(study)
    for section in SECTIONS:
        for name, entry in getattr(study, section).items():
            yield from _seeds(study, f"{section}.{word(name)}", entry)
            yield from _parents(study, f"{section}.{word(name)}", entry)
    yield from evaluations.mistakes(study)
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
    trained = [run for run in runs.values() if run.training]
    yield from _missing(study, runs)
    # here and not with the study's entries, since a recipe's writer is one of the runs
    yield from recipes.mistakes(study)
    made = {file: name for name, file in made_by_recipes(study).items()}
    for run in trained:
        key, settings = f"{run.section}.{run.name}", run.training
        if settings.data in made:
            yield from recipes.data(study, f"{key}.data", made[settings.data], run.reads)
        else:
            yield from inputs.data(f"{key}.data", settings.data, run.reads)
        for name in settings.data_sets[1:]:
            yield from inputs.data(f"{key}.others.data", name, run.reads)
        yield from inputs.filters(f"{key}.filters", settings.data, settings.filters)
        yield from _numbers(key, settings)
        yield from _start(key, run, runs.get(run.parent))
    # scorers are never probed, so their steps count for nothing here
    yield from _checkpoints(
        study.probing.checkpoints, [run.training for run in trained if run.makes == "policy"]
    )
    by_lineage = {run.lineage: run for run in runs.values()}
    yield from roles.of_runs(study, runs)
    yield from evaluations.of_runs(study, runs)
    for name, ablation in study.ablations.items():
        yield from _ablation(f"ablations.{word(name)}", ablation, by_lineage)


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


def _seeds(study, key: str, entry: dict) -> Mistakes:
    """Seeds are those of the study; of which form they are is checked elsewhere."""
    seeds = entry.get("seeds", [])
    if isinstance(seeds, list) and any(seed not in study.seeds for seed in seeds):
        why = f"{shown(seeds)} are not all among seeds {shown(study.seeds)}"
        yield f"{key}.seeds", f"{why}; write some of those"


def _parents(study, key: str, entry: dict) -> Mistakes:
    """A parent's own name is that of an entry; whether its lineage is a run shows later."""
    parents = entry.get("parent", [])
    there = {lineages.BASE}.union(*(getattr(study, section) for section in SECTIONS))
    for parent in parents if isinstance(parents, list) else [parents]:
        if isinstance(parent, str) and parent.rpartition("/")[2] not in there:
            yield f"{key}.parent", f"no run '{word(parent)}'; there are {', '.join(sorted(there))}"


def _missing(study, runs: dict) -> Mistakes:
    """Every parent and scorer is a run of the study, for every seed."""
    told = set()
    for entry, what, name, seed in missing(study):
        key = f"{entry.section}.{word(entry.name)}.{what}"
        if key in told:  # for another seed
            continue
        told.add(key)
        makes = "scorer" if what == "scorer" else "policy"
        there = sorted({run.lineage for run in runs.values() if run.makes == makes})
        if name in there:
            yield key, f"'{name}' has no seed {seed}; add it there, or write seeds here"
        else:
            fit = ", ".join(map(word, there)) or "none"
            yield (
                key,
                f"no {'scorer' if what == 'scorer' else 'run'} '{word(name)}'; there are {fit}",
            )


def _start(key: str, run, parent) -> Mistakes:
    """What a run starts from can be trained on."""
    if parent is None or parent.is_base:
        return
    if parent.makes == "scorer":
        why = f"'{parent.lineage}' gives scores and writes no texts"
        yield f"{key}.parent", f"{why}; name a run that makes a policy"
    elif parent.training and run.training.lora != parent.training.lora:
        why = f"differs from that of its parent {parent.lineage}, whose adapters it trains on"
        yield f"{key}.lora", f"{why}; write the same"


def _numbers(key: str, settings) -> Mistakes:
    """Numbers of a run against the number of its examples, where that is known."""
    rows, held = _rows(settings), rows_of(settings.data)
    # What follows would only repeat this mistake with other numbers.
    if held and rows > held:
        yield f"{key}.examples", f"'{settings.data}' has {held}; write at most that, or remove it"
        return
    # steps of epochs are counted on the rows that are trained on, not on held-out ones
    yield from _warm_up(key, settings, _learnt(settings, rows))
    last = _steps(settings, _learnt(settings, rows))
    if last and settings.save_at and max(settings.save_at) > last:
        yield f"{key}.save_at", f"the run has {last} steps; write steps up to that"
    # Settings with a scorer are PPO's. TRL drops a batch of prompts that is not full, so none would
    # be left.
    if rows and rows < settings.batch_size and hasattr(settings, "scorer"):
        why = f"a batch takes {settings.batch_size} prompts, and there are {rows}"
        yield f"{key}.batch_size", f"{why}; lower it"
    share = getattr(settings, "held_out", None)
    if rows and share and not 1 <= round(rows * share) <= rows - 2:
        why = f"{share:g} of {rows} pairs leaves too few on one side"
        yield f"{key}.held_out", f"{why}; write another share, such as 0.2"


def _learnt(settings, rows: int | None) -> int | None:
    """The examples that are trained on, without those that measure a scorer."""
    return rows and round(rows * (1 - getattr(settings, "held_out", 0)))


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
        # One run is enough: the others are probed at those of the steps that they have.
        if not any(_saves(settings, step) for settings in trained):
            spacings = ", ".join(map(str, sorted({settings.save_every for settings in trained})))
            why = f"no run saves step {step}, where save_every is {spacings}"
            yield "probing.checkpoints", f"{why}; write all, last, or steps that are saved"


def _saves(settings, step: int) -> bool:
    last = _steps(settings, _rows(settings))
    # As long as the number of rows is unknown, any multiple may be saved.
    regular = step % settings.save_every == 0 and (last is None or step < last)
    return step == last or regular or step in (settings.save_at or ())


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
    # by type: to isinstance, true and false are integers
    if not all(type(value) in (int, float) for value in values):
        yield f"{key}.key", f"'{varied}' is not a number in all its runs; write a key that is"
    elif len(values) == len(ablation.runs) and len(set(values)) == 1:
        why = f"{varied} is {values[0]:g} in all of them"
        yield f"{key}.runs", f"{why}; name runs that differ in it"
