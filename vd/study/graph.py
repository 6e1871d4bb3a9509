"""From the entries of a study to its runs: every entry for every model, seed and parent.

Any run that makes a policy can be the parent of any other, so chains of any length can be written:

    sft:        {a: {...}, b: {parent: a, ...}}
    preference: {c: {parent: a/b, ...}, d: {parent: a/b/c, ...}}

A parent is named by its lineage: its ancestors' names and its own. A `scorer` is named alike, or,
where it starts from the same parent, by its name alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vd import lineages, paths
from vd.study.methods import method_of
from vd.study.runs import Run
from vd.study.settings import MethodSettings, ModelSettings
from vd.study.types import Names, Seeds, Settings

SECTIONS = ("sft", "scorers", "preference")


class Lineage(Settings):
    """Keys of an entry that no method has: by which method, from where, with which seeds."""

    method: str | None = None
    parent: str | Names = lineages.BASE
    seeds: Seeds = [0]  # left out: all of the study


class Continued(Lineage):
    """The same of a preference entry, which always continues a run."""

    method: str
    parent: str | Names


@dataclass(frozen=True)
class Entry:
    """One entry of a section."""

    section: str
    name: str
    method: str
    module: object
    settings: MethodSettings
    parents: tuple[str | None, ...]
    seeds: tuple[int, ...]


def settings_of(section: str, entry: dict, recipes: dict[str, str]) -> MethodSettings:
    """The settings of a run, checked by its method's; LookupError says why there is no method.

    `recipes` are the files of data sets that the study makes, by name.
    """
    # A method declares only what it needs; where a run starts is the same matter for all of them.
    own = {key: value for key, value in entry.items() if key not in Lineage.model_fields}
    if isinstance(own.get("data"), str):
        # the name of a recipe stands for the file that it makes
        own["data"] = recipes.get(own["data"], own["data"])
    return method_of(section, entry).Settings(**own)


def entries(study) -> Iterator[Entry]:
    """All entries of a study in the order of its sections."""
    made = made_by_recipes(study)
    for section in SECTIONS:
        for name, entry in getattr(study, section).items():
            module = method_of(section, entry)
            given = module.READS is None  # it brings its own beginning
            parents = None if given else entry.get("parent", lineages.BASE)
            yield Entry(
                section,
                name,
                entry.get("method", "sft"),
                module,
                settings_of(section, entry, made),
                tuple(parents) if isinstance(parents, list) else (parents,),
                tuple(entry.get("seeds", study.seeds)),
            )


def made_by_recipes(study) -> dict[str, str]:
    """Data sets that a study makes itself: the file of each, as a study may write it, by name."""
    return {
        name: f"results/{study.name}/recipes/{name}/{paths.RECIPE_DATA}" for name in study.recipes
    }


def expand(study) -> dict[str, Run]:
    """All runs by id, every parent and scorer before the runs that need it.

    Entries whose parent or scorer is nowhere are left out; `missing` names them.
    """
    found, written = {}, list(entries(study))
    # by model and seed: a parent and a scorer are of the same model and seed as their run
    for model, settings in study.models.items():
        for seed in study.seeds:
            base = base_run(study.name, model, settings, seed)
            found |= {run.id: run for run in _of_seed(base, written).values()}
    return found


def missing(study) -> Iterator[tuple[Entry, str, str, int]]:
    """Parents and scorers that no run is: entry, key, lineage and seed."""
    # One model will do: entries are the same for all.
    written, model = list(entries(study)), next(iter(study.models))
    for seed in study.seeds:
        base = base_run(study.name, model, study.models[model], seed)
        there = _of_seed(base, written)
        for entry, parent in _wanted(written, seed):
            if parent is not None and parent not in there:
                yield entry, "parent", parent, seed
            # only where the parent is there, beside which the scorer may be named
            else:
                key, name = _helper(entry)
                if name and not _find(name, parent, there):
                    yield entry, key, name, seed


def _of_seed(base: Run, written: list[Entry]) -> dict[str, Run]:
    """The runs of one model and seed by lineage, in rounds: each makes what the last made ready."""
    there, waiting = {base.lineage: base}, _wanted(written, base.seed)
    while True:
        left = []
        for entry, parent in waiting:
            helper = _helper(entry)[1]
            scorer = _find(helper, parent, there)
            ready = parent is None or parent in there
            if ready and (scorer or not helper):
                run = _run(base, entry, there.get(parent), scorer)
                there[run.lineage] = run
            else:
                left.append((entry, parent))
        # What a round did not bring nearer never comes: its parent is nowhere, or in a circle.
        if len(left) == len(waiting):
            return there
        waiting = left


def _wanted(written: list[Entry], seed: int) -> list[tuple[Entry, str | None]]:
    return [(entry, parent) for entry in written for parent in entry.parents if seed in entry.seeds]


def _helper(entry: Entry) -> tuple[str, str | None]:
    """The key by which an entry names a run that it needs beside its parent, and that name."""
    key = "rewriter" if hasattr(entry.settings, "rewriter") else "scorer"
    return key, getattr(entry.settings, key, None)


def _find(name: str | None, parent: str | None, there: dict[str, Run]) -> Run | None:
    """A scorer or rewriter by name: the parent's own, or by its whole lineage."""
    if name is None:
        return None
    # An entry with several parents needs the scorer of each, under one name.
    own = there.get(lineages.child(parent, name)) if parent else None
    return own or there.get(name)


def base_run(study: str, model: str, settings: ModelSettings, seed: int) -> Run:
    """The model as it came, as a run."""
    return Run(
        study=study,
        model=model,
        model_settings=settings,
        section="base",
        name=lineages.BASE,
        method=None,
        reads=None,
        makes="policy",
        settings=None,
        seed=seed,
        parent=None,
        id=lineages.run_id(model, lineages.BASE, seed),
    )


def _run(base: Run, entry: Entry, parent: Run | None, scorer: Run | None) -> Run:
    lineage = lineages.child(parent.lineage, entry.name) if parent else entry.name
    return Run(
        study=base.study,
        model=base.model,
        model_settings=_starts_from(parent) if parent else base.model_settings,
        section=entry.section,
        name=entry.name,
        method=entry.method,
        reads=entry.module.READS,
        makes=entry.module.MAKES,
        settings=entry.settings,
        seed=base.seed,
        parent=parent and parent.id,
        scorer=scorer and scorer.id,
        id=lineages.run_id(base.model, lineage, base.seed),
    )


def _starts_from(parent: Run) -> ModelSettings:
    """The model that a run's weights or adapters belong to: its parent's, and where that is a
    series from elsewhere, the last model of it."""
    # Adapters are kept without their base model, so a run must know which one is theirs.
    last = getattr(parent.settings, "last", None)
    return parent.model_settings if last is None else last(parent.model_settings)
