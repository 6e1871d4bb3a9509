"""Roles: which runs and data sets of a study play which part in a paper's findings.

A study names the papers that it speaks to, and under each one who plays its roles:

    findings:
      value-drifts:
        dpo: sft-support/dpo-support

A run is named by its lineage without model and seed: `SFT run` or `SFT run/preference run`. A
paper is a file of vd/findings/papers, which holds

    TITLE       what it is called, with its arXiv number
    Roles       settings, each declared by `role`, which says what may play it
    COMPARED    roles that a finding sets against each other, so that no two may be the same
    FINDINGS    what it reports, see vd/findings/finding.py

Checks yield (key, mistake and fix).
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

from pydantic import Field, ValidationError

from vd import plugins
from vd.study.file import explain, shown, word
from vd.study.found import file_of, imported
from vd.study.graph import made_by_recipes
from vd.study.types import Settings

Mistakes = Iterator[tuple[str, str]]
Kind = Literal["run", "sft", "preference", "data"]
ROOM = "findings.papers"
NEEDS = ("TITLE", "Roles", "FINDINGS")


def role(kind: Kind, method: str | tuple[str, ...] | None = None) -> Any:
    """Declare a role that nothing or something of one kind plays: `dpo: str | None = role("run")`.

    `run` is any trained run, `sft` and `preference` one of that section, `data` a data set of
    preference pairs. `method` names the method of the run, or several that will do; None takes all.
    """
    methods = (method,) if isinstance(method, str) else method or ()
    return Field(None, json_schema_extra={"kind": kind, "methods": list(methods)})


def kind(roles: type[Settings], name: str) -> Kind:
    """What may play a role, as its paper declares it."""
    return roles.model_fields[name].json_schema_extra["kind"]


def paper(name: str) -> ModuleType:
    """The file of a paper; LookupError says what is wrong with the name or the file."""
    known = plugins.names(ROOM)
    if name not in known:
        raise LookupError(f"no paper {shown(name)}; write one of {', '.join(known)}")
    module = imported(ROOM, name)
    if wrong := _wrong(module):
        raise LookupError(f"{file_of(ROOM, name)}: {wrong}")
    return module


def _wrong(module: ModuleType) -> str | None:
    """What is wrong with a paper's file, and the fix; None if nothing is."""
    if missing := [part for part in NEEDS if not hasattr(module, part)]:
        return f"{', '.join(missing)} missing; add what is missing"
    if not (isinstance(module.Roles, type) and issubclass(module.Roles, Settings)):
        return "Roles must build on Settings"
    fields = module.Roles.model_fields
    for name, info in fields.items():
        if "kind" not in (info.json_schema_extra or {}):
            return f'role {name} does not say what may play it; write = role("run")'
    for finding in module.FINDINGS:
        if unknown := [name for name in finding.roles if name not in fields]:
            return f"finding {finding.key}: no role {unknown[0]}; add it to Roles"
    return None


def played(study) -> dict[str, Settings]:
    """Who plays each role of each paper that a study names, by the paper's name.

    A data set that the study makes itself is named by its file, as in runs and tables.
    """
    made, found = made_by_recipes(study), {}
    for name, given in study.findings.items():
        roles = paper(name).Roles(**given)
        own = [one for one in type(roles).model_fields if kind(type(roles), one) == "data"]
        files = {one: made[who] for one in own if (who := getattr(roles, one)) in made}
        found[name] = roles.model_copy(update=files)
    return found


def of_study(study) -> Mistakes:
    """What is wrong with the roles before anything is known of runs."""
    for name, given in study.findings.items():
        key = f"findings.{word(name)}"
        try:
            paper(name).Roles(**given)
        except LookupError as error:
            yield key, error.args[0]
        except ValidationError as error:
            yield from explain(key, given, error)


def of_runs(study, runs: dict) -> Mistakes:
    """Roles are played by those who can, and the runs of a paper can be compared."""
    # Any model and seed will do: section, method and data are those of the entry.
    lineages = {run.lineage: run for run in runs.values()}
    for name, roles in played(study).items():
        key, named = f"findings.{name}", roles.model_dump(exclude_none=True)
        for one, who in named.items():
            info = type(roles).model_fields[one].json_schema_extra
            yield from _fits(f"{key}.{one}", who, info["kind"], info["methods"], lineages)
        for one, other in getattr(paper(name), "COMPARED", ()):
            if one in named and named[one] == named.get(other):
                why = f"the same as {one}, which it is compared with; name another"
                yield f"{key}.{other}", why
        yield from _common_seeds(key, named, runs)


def _fits(key: str, name: str, kind: Kind, methods: list[str], lineages: dict) -> Mistakes:
    if kind == "data":
        # only these data sets have both sides judged by 00_stance_profile
        pairs = {run.training.data for run in lineages.values() if run.reads == "pairs"}
        compared = pairs or {"value_gap"}
        if name not in compared:
            why = f"'{word(name)}' is no data set of a preference run"
            yield key, f"{why}; write {' or '.join(sorted(compared))}"
        return
    able = [other for other, run in lineages.items() if _can(run, kind, methods)]
    if name not in lineages:
        yield key, f"no run '{word(name)}'; there are {', '.join(sorted(lineages))}"
    elif name not in able:
        wanted = " or ".join(methods) or (kind if kind != "run" else "trained")
        fix = f"write {' or '.join(able)}" if able else "remove it"
        yield key, f"'{name}' is no {wanted} run; {fix}"


def _can(run, kind: Kind, methods: list[str]) -> bool:
    fits = not run.is_base if kind == "run" else run.section == kind
    return fits and run.makes == "policy" and (not methods or run.method in methods)


def _common_seeds(key: str, named: dict[str, str], runs: dict) -> Mistakes:
    """Findings compare runs on the same seeds."""
    own = [run for run in runs.values() if not run.is_base]
    seeds = {name: {run.seed for run in own if run.lineage == name} for name in named.values()}
    # left out are data sets and the base model, which is there for every seed
    seeds = {name: those for name, those in seeds.items() if those}
    if seeds and not set.intersection(*seeds.values()):
        said = ", ".join(f"{name} {sorted(those)}" for name, those in seeds.items())
        yield key, f"its runs have no seed in common, {said}; give them one"
