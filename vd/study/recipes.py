"""Recipes by name: how a data set is made during a study, and the keys that an entry may write.

A file of vd/recipes/kinds holds

    KIND        texts, pairs, steps or prompts: which reader of vd/data/sets.py its rows pass
    COLUMNS     those of its rows that are written, in order
    Settings    its keys: RecipeSettings and its own
    make        (making: vd.recipes.making.Making) -> table of everything that was tried, a row
                each: COLUMNS, `answered` (whether there is all that a row needs) and `dropped`
                (why it is not used, "" for a row that is); more columns are for reading only
    JUDGED_FOR  what its judge looks at, if it has one: stance, as left out, or safety
"""

from collections.abc import Iterator

from pydantic import ValidationError

from vd import paths
from vd.study import constitution, graph, inputs, sources
from vd.study.file import explain, shown, study_error, word
from vd.study.found import check_settings, file_of, imported, stems
from vd.study.graph import made_by_recipes
from vd.study.settings import ModelSettings, RecipeSettings

Mistakes = Iterator[tuple[str, str]]
ROOM = "recipes.kinds"
NEEDED = ("KIND", "COLUMNS", "Settings", "make")


def recipe_of(entry: dict):
    """The module behind an entry's recipe; LookupError says why there is none."""
    name, known = entry.get("recipe"), stems(ROOM)
    if not isinstance(name, str) or name.replace("-", "_") not in known:
        add = f"add vd/recipes/kinds/<name>.py with {', '.join(NEEDED)}"
        raise LookupError(f"no recipe {shown(name)}; write one of {', '.join(known)}, or {add}")
    # Loaded here and not above: only a study that has recipes pays for their imports.
    module, file = imported(ROOM, name), file_of(ROOM, name)
    if lacking := [part for part in NEEDED if not hasattr(module, part)]:
        raise LookupError(f"{file} has no {', '.join(lacking)}; add them")
    check_settings(module, file, RecipeSettings)
    return module


def settings_of(entry: dict) -> RecipeSettings:
    """The settings of an entry; LookupError and pydantic's ValidationError say what is wrong."""
    return recipe_of(entry).Settings(**entry)


def find_recipe(study, name: str) -> tuple[object, RecipeSettings]:
    """The module and settings of a study's recipe; StudyError names file, key and fix."""
    if wrong := list(_of_one(study, name)):
        raise study_error(paths.config(study.name), wrong)
    entry = study.recipes[name]
    return recipe_of(entry), settings_of(entry)


def find_run(study, writer: str):
    """The run that writes: one with this id or, of the first model and seed, with this lineage; or
    a model by its source, such as embedded:smollm2-135m-instruct, which need be none of the study.

    None if no run that makes a policy is called so.
    """
    runs = study.policies()
    found = runs.get(writer) or next((r for r in runs.values() if r.lineage == writer), None)
    if found is None and writer in sources.WRITERS:
        model = ModelSettings(source=writer)
        return graph.base_run(study.name, writer.partition(":")[2], model, study.seeds[0])
    return found


def judged_for(module) -> str:
    """What a recipe's judge looks at."""
    return getattr(module, "JUDGED_FOR", "stance")


def asked_runs(settings: RecipeSettings) -> dict[str, str]:
    """Names of the runs that work for a recipe, by key: who writes, who answers first if another
    run, and who labels.
    """
    named = {
        key: getattr(settings, key, None) for key in ("writer", "answers", "second", "labeller")
    }
    return {key: name for key, name in named.items() if isinstance(name, str) and name != "trained"}


def read_by(entry: dict) -> list[str]:
    """Data sets, and files of ours, that a recipe's rows depend on."""
    module, settings = recipe_of(entry), settings_of(entry)
    asked = getattr(settings, "pairs", None) or getattr(settings, "prompts", None)
    found = [asked] if asked else []
    if settings.judge:
        found.append({"stance": "judge"}.get(judged_for(module), judged_for(module)))
    if getattr(settings, "labeller", None) == "trained":
        found += ["assistant_judge"]
    if hasattr(settings, "constitution"):
        files = settings.constitution, constitution.EXAMPLES
        found += [str(constitution.place(file)) for file in files]
    return found


def mistakes(study) -> Mistakes:
    """What is wrong with a study's recipes, by themselves and together: (key, mistake and fix)."""
    found = [wrong for name in study.recipes for wrong in _of_one(study, name)]
    yield from found
    # what a writer has been trained on can be followed only through entries that are right
    if found:
        return
    # A circle would be reported by the workflow as one of files, which nobody wrote.
    needs = {name: _trained_on(study, name) for name in study.recipes}
    for name in study.recipes:
        if name in _behind(name, needs):
            why = f"it is trained on '{name}', or on what others make of it"
            yield f"recipes.{name}.writer", f"{why}; name a run that is there before"


def data(study, key: str, name: str, reads: str) -> Mistakes:
    """What a recipe makes is what the run that names it reads."""
    try:
        makes = recipe_of(study.recipes[name]).KIND
    except LookupError:  # said of the recipe itself
        return
    if makes != reads:
        yield key, f"recipe {word(name)} makes {makes}; name data that hold {reads}"


def _of_one(study, name: str) -> Mistakes:
    key = f"recipes.{word(name)}"
    if name not in study.recipes:
        there = f"its recipes are {', '.join(study.recipes)}" if study.recipes else "it has none"
        yield key, f"no such recipe; {there}"
        return
    entry = study.recipes[name]
    try:
        settings = settings_of(entry)
    except ValidationError as error:
        yield from explain(key, entry, error)
        return
    except LookupError as error:
        yield f"{key}.recipe", error.args[0]
        return
    for place, one in asked_runs(settings).items():
        if find_run(study, one) is None:
            there = ", ".join(dict.fromkeys(run.lineage for run in study.policies().values()))
            server = ", or model and base_url of a server" if place == "writer" else ""
            server = f", {', '.join(sources.WRITERS)}{server}" if ":" in one else server
            why = f"no run '{word(one)}' writes texts"
            yield f"{key}.{place}", f"{why}; write one of {there}{server}"
    for use in ("prompts", "pairs"):
        if name := getattr(settings, use, None):
            yield from inputs.data(f"{key}.{use}", name, use)


def _trained_on(study, name: str) -> set[str]:
    """Recipes whose data the writer of a recipe has seen, or a run that it comes from."""
    made = {file: other for other, file in made_by_recipes(study).items()}
    runs, named = study.runs(), asked_runs(settings_of(study.recipes[name]))
    # a model by its source has been trained on nothing of ours
    waiting = [run.id for one in named.values() if (run := find_run(study, one)).id in runs]
    found = set()
    while waiting:
        run = runs[waiting.pop()]
        found |= {made[run.training.data]} if run.training and run.training.data in made else set()
        waiting += [before for before in (run.parent, run.scorer) if before]
    return found


def _behind(name: str, needs: dict[str, set[str]]) -> set[str]:
    found, waiting = set(), set(needs[name])
    while waiting:
        other = waiting.pop()
        found.add(other)
        waiting |= needs[other] - found
    return found
