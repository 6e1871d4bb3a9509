"""Recipes by name: how a data set is made during a study, and the keys that an entry may write.

A file of vd/recipes/kinds holds

    KIND        texts, pairs, steps or prompts: which reader of vd/data/sets.py its rows pass
    COLUMNS     those of its rows that are written, in order
    Settings    its keys: RecipeSettings and its own
    make        (making: vd.recipes.making.Making) -> table of everything that was tried, a row
                each: COLUMNS, `answered` (whether there is all that a row needs) and `dropped`
                (why it is not used, "" for a row that is); more columns are for reading only
"""

from pydantic import ValidationError

from vd import paths, plugins
from vd.study.file import StudyError, explain, shown, study_error, word
from vd.study.settings import RecipeSettings

ROOM = "recipes.kinds"
NEEDED = ("KIND", "COLUMNS", "Settings", "make")


def recipe_of(entry: dict):
    """The module behind an entry's recipe; LookupError says why there is none."""
    name, known = entry.get("recipe"), [n.replace("-", "_") for n in plugins.names(ROOM)]
    if not isinstance(name, str) or name.replace("-", "_") not in known:
        add = f"add vd/recipes/kinds/<name>.py with {', '.join(NEEDED)}"
        raise LookupError(f"no recipe {shown(name)}; write one of {', '.join(known)}, or {add}")
    file = f"vd/recipes/kinds/{name.replace('-', '_')}.py"
    try:
        module = plugins.load(ROOM, name)
    except Exception as error:  # somebody's own recipe
        said = word(" ".join(f"{type(error).__name__}: {error}".split()))
        raise LookupError(f"{file} cannot be imported ({said}); correct it") from None
    if lacking := [part for part in NEEDED if not hasattr(module, part)]:
        raise LookupError(f"{file} has no {', '.join(lacking)}; add them")
    if not (isinstance(module.Settings, type) and issubclass(module.Settings, RecipeSettings)):
        raise LookupError(f"{file}: Settings must build on RecipeSettings")
    return module


def settings_of(entry: dict) -> RecipeSettings:
    """The settings of an entry; LookupError and pydantic's ValidationError say what is wrong."""
    return recipe_of(entry).Settings(**entry)


def find_recipe(study, name: str) -> tuple[object, RecipeSettings]:
    """The module and settings of a study's recipe; StudyError names file, key and fix."""
    file, key = paths.config(study.name), f"recipes.{word(name)}"
    if name not in study.recipes:
        there = f"its recipes are {', '.join(study.recipes)}" if study.recipes else "it has none"
        raise study_error(file, [(key, f"no such recipe; {there}")])
    entry = study.recipes[name]
    try:
        return recipe_of(entry), settings_of(entry)
    except ValidationError as error:
        raise study_error(file, explain(key, entry, error)) from None
    except LookupError as error:
        raise study_error(file, [(f"{key}.recipe", error.args[0])]) from None


def writing_run(study, name: str, lineage: str):
    """The run that writes: one with this id or, of the first model and seed, with this lineage."""
    runs = study.runs()
    found = runs.get(lineage) or next((r for r in runs.values() if r.lineage == lineage), None)
    if found is None:
        there = ", ".join(dict.fromkeys(run.lineage for run in runs.values()))
        why = f"no run '{word(lineage)}'; write one of {there}, or a server's model and base_url"
        raise StudyError(f"{paths.config(study.name)}: recipes.{word(name)}.writer: {why}")
    return found
