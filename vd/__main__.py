"""`python -m vd STUDY` says what a study will do, `python -m vd STUDY --where` where its results are."""

import os
import sys

from vd import paths
from vd.study import StudyError, load_study


def main() -> None:
    """Print the plan or the places; a mistake in the study is printed as one line a key, with exit status 1."""
    name, where = sys.argv[1], "--where" in sys.argv
    try:
        study = load_study(name)
    except StudyError as error:
        sys.exit(f"{error}")
    if where:
        print(f"figures  {os.path.relpath(paths.figures(name))}/\ntables   {os.path.relpath(paths.results(name))}/")
        return
    for run in study.runs().values():
        depth = {"base": 0, "sft": 1, "preference": 2}[run.phase]
        what = f"{run.method}, {run.settings.length} on {run.settings.data}" if run.settings else "as it is"
        print(f"{'  ' * depth}{run.id}: {what}")
    print(f"then probe, judge, drift, figures and tables in {os.path.relpath(paths.results(name))}/")


main()
