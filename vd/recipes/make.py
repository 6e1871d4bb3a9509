"""A recipe of a study in, a data set out: rows that say who wrote them, a card, a yield.

In results/<study>/recipes/<name>/:

    data.jsonl      the rows to train on, in the columns of an embedded set of their kind, each
                    with its provenance
    card.json       counts, what was dropped and why, writer, judge, cost
    yield.csv       asked, answered and kept, by topic
    tried.parquet   everything that was tried, kept or not, to read
"""

import json

import pandas as pd

from vd import paths
from vd.judging import safety
from vd.judging.offline import load_judge
from vd.recipes import writers
from vd.recipes.making import Making, cost, yield_table
from vd.store import files, fingerprint
from vd.store.progress import Timer
from vd.store.provenance import provenance
from vd.study import recipes
from vd.study.load import Study
from vd.study.recipes import find_recipe

NOTHING = pd.DataFrame(columns=["failure"])  # where no reply was asked for


def make_recipe(study: Study, name: str) -> dict:
    """Make the data set `name` of a study's `recipes`; returns its card.

    A second call, or one after an interruption, asks nothing that has been answered. Raises
    StudyError and ValueError with file, key and fix, FileNotFoundError where the writing run is not
    trained, and what servers raise (vd/recipes/writers.py).
    """
    timer = Timer()
    recipe, settings = find_recipe(study, name)
    written_down = version(recipe)
    # The offline judge even where the study has one behind an API: that one is for measuring, and
    # data that it had chosen would flatter what it measures.
    judge = None
    if settings.judge:
        of_safety = recipes.judged_for(recipe) == "safety"
        judge = safety.load(study=study.name) if of_safety else load_judge(study.judge)
    writer = writers.find_writer(study, name, settings, written_down) if settings.writer else None

    def writer_of(run: str) -> writers.Writer:
        own = settings.model_copy(update={"writer": run})
        return writers.find_writer(study, name, own, written_down)

    making = Making(study, name, settings, writer, judge, writer_of)
    tried = recipe.make(making)
    kept = tried[tried["dropped"] == ""]
    from_whom = {"recipe": settings.recipe, "recipe_version": written_down}
    from_whom = (writer.provenance() if writer else {}) | from_whom
    folder = paths.recipe(study.name, name)
    # Written even when nothing is kept: an honest yield of zero is a result.
    _write_rows(kept[recipe.COLUMNS], from_whom, folder / paths.RECIPE_DATA)
    files.write_table(tried, folder / paths.TRIED)
    files.write_table(yield_table(tried), folder / "yield.csv")
    # every reply and not the rows: what was dropped has been paid for as well
    replies = pd.concat(making.replies or [NOTHING], ignore_index=True)
    card = {
        "name": name,
        "kind": recipe.KIND,
        "settings": settings.model_dump(),
        "asked": len(tried),
        "answered": int(tried["answered"].sum()),
        "kept": len(kept),
        "dropped": tried.loc[tried["dropped"] != "", "dropped"].value_counts().to_dict(),
        "replies": replies["failure"].replace("", "whole").value_counts().to_dict(),
        "written_by": from_whom,
        "judge": judge.name if judge else None,
        "cost": cost(replies, len(kept), writer and writer.settings),
        "wall_seconds": timer.seconds,
        **provenance(),
    }
    files.write_json(card, folder / "card.json")
    return card


def version(recipe) -> str:
    """A hash of a recipe's text: what it tells the writer and how it makes rows of replies.

    Comments do not count, nor does what it shares with others.
    """
    found = fingerprint.code(f"{recipe.__name__}.make")
    # What is shared may change for other recipes' sake, and the job's fingerprint holds it anyway.
    own = [f"{name} {code}" for name, code in found.items() if name.startswith(recipe.__name__)]
    return fingerprint.digest(*own)[:8]


def _write_rows(rows: pd.DataFrame, from_whom: dict, file) -> None:
    # The same provenance in every row: files are cut, mixed and passed on without their cards.
    lines = (json.dumps(row | from_whom) + "\n" for row in rows.to_dict("records"))
    files.write_text("".join(lines), file)
