"""One job of the workflow: papermill executes a notebook, and a record says when that is done.

The Snakefile runs `python -m vd.workflow.job PARENT RECORD MADE_FROM papermill NOTEBOOK OUTPUT
[OPTIONS]`.
"""

import os
import re
import sys
from pathlib import Path

from vd.store import files
from vd.store.parents import end_with
from vd.store.progress import say
from vd.workflow import notebooks, slots

# what starters of several processes set; one that trains alone would wait for the others
LAUNCHED = r"ACCELERATE_\w+|(OMPI_COMM_WORLD|MV2_COMM_WORLD|PMI)_\w+|(LOCAL_)?RANK|WORLD_SIZE"


def main() -> None:
    """Execute the notebook beside its place, as papermill writes on after a failure; move it there.

    After a failure it is kept as `<name>.failed.ipynb`, and two lines say why and where. The job
    ends with its parent, which is Snakemake.
    """
    parent, made, made_from, _, notebook, output, *options = sys.argv[1:]
    end_with(int(parent))
    slots.take(int(os.environ.get("VD_GPUS", 1)))
    for name in filter(re.compile(LAUNCHED).fullmatch, list(os.environ)):
        del os.environ[name]
    # the last option is the run, or the study where the job is not about one
    job = f"{Path(notebook).stem} {options[-1]}"
    failed = Path(output).with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    say(f"start  {job}")
    with files.replace(Path(output)) as part:
        try:
            # ./ lest a folder that begins with a dash be an option
            _execute([notebook, os.path.join(os.curdir, part), *options])
        except Exception as error:
            if part.exists():
                part.rename(failed)
            sys.exit(f"{job}: {_in_short(error)}\nthe notebook, with all of the error: {failed}")
        notebooks.relink(part, Path(notebook), Path(output))
    # last of all: with this record the job counts as finished
    files.write_text(made_from + "\n", Path(made))
    say(f"done   {job}")


def _execute(words: list[str]) -> None:
    # it builds a grammar of web addresses for two seconds in every job; jsonschema, which papermill
    # needs, does without it, and no notebook is checked for such addresses
    sys.modules["rfc3987_syntax"] = None
    from papermill.cli import papermill

    quiet = ["--kernel", "python3", "--no-progress-bar", "--log-level", "CRITICAL"]
    # Otherwise click ends the process itself, after a success as well, and no record is written.
    papermill([*words, *quiet], standalone_mode=False)


def _in_short(error: Exception) -> str:
    """The error as it was raised: by papermill, or in a cell of the notebook."""
    cell = hasattr(error, "ename")
    return f"{error.ename}: {error.evalue}" if cell else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
