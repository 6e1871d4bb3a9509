"""Making what is needed, so that every notebook runs alone."""

import os
from pathlib import Path

from vd.store.progress import Line
from vd.workflow import launch


def make(study: str, *targets: Path) -> None:
    """Make files that do not exist yet by running the workflow, so that every notebook runs alone.

    Prints nothing: what a cell prints must not depend on what was there before. A line below the
    cell says how far it is, while it works. Raises RuntimeError with what Snakemake said.
    """
    missing = [target for target in targets if not target.exists()]
    if missing:
        # as the Snakefile writes them, for Snakemake compares names of files as texts
        names = [os.path.relpath(target, launch.directory(study)) for target in missing]
        line = Line()
        code, said = launch.snakemake(study, ["--", *names], line if line.shell else None)
        line.clear()
        if code:
            what = f"the workflow could not make {', '.join(names)}:"
            raise RuntimeError("\n".join([what, *said[-60:]]))
