"""Copies of the notebooks that run in seconds: on the study smoke, whatever study they show.

    python tests/notebooks_at_smoke.py FOLDER               write copies that nbval can check
    python tests/notebooks_at_smoke.py --keep [NAME ...]    execute such copies, all or these, and
                                                            keep what they print

Checked are cells tagged `nbval-check-output`: those whose output is the same on every machine. What
they print at smoke lies in tests/notebook_outputs/, since the notebooks hold what they show.
"""

import json
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from vd import paths
from vd.workflow import notebooks

EXPECTED = Path(__file__).parent / "notebook_outputs"
TAG = "nbval-check-output"
PARENT = "tiny-llama/sft-support"
RUNS = {
    "01_given": "tiny-llama/given/seed-0",
    "02_preference": f"{PARENT}/dpo-support/seed-0",
    "02_scorer": f"{PARENT}/reward/seed-0",
    "09_explore": None,
}


def at_smoke(notebook):
    """The notebook with smoke's parameters, without outputs."""
    book = nbformat.read(notebook, as_version=4)
    told = notebooks.parameters(notebook) | {"STUDY": "smoke"}
    if "RUN" in told:
        told["RUN"] = RUNS.get(notebook.stem, f"{PARENT}/seed-0")
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in told.items())
    return book


def checked(book):
    """Its cells whose outputs count, by their place among them."""
    return [cell for cell in book.cells if TAG in cell.metadata.get("tags", [])]


def write(folder):
    """Write copies that nbval can check."""
    for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        book = at_smoke(notebook)
        kept = json.loads((EXPECTED / f"{notebook.stem}.json").read_text(encoding="utf-8"))
        for cell, outputs in zip(checked(book), kept, strict=True):
            cell.outputs = [nbformat.from_dict(output) for output in outputs]
            cell.execution_count = 1  # nbval takes a cell without one for never run
        nbformat.write(book, folder / notebook.name)


def keep(names):
    """Execute copies and keep what their checked cells print, pictures apart."""
    for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        if names and notebook.stem not in names:
            continue
        book = at_smoke(notebook)
        NotebookClient(book, kernel_name="python3", timeout=2000).execute()
        kept = [[without_pictures(output) for output in cell.outputs] for cell in checked(book)]
        text = json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        (EXPECTED / f"{notebook.stem}.json").write_text(text, encoding="utf-8")


def without_pictures(output):
    """An output without what nbval does not compare."""
    found = {name: value for name, value in output.items() if name != "execution_count"}
    if "data" in found:
        found["data"] = {k: v for k, v in found["data"].items() if not k.startswith("image/")}
    if output["output_type"] == "execute_result":
        found["execution_count"] = None
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--keep"]:
        keep(sys.argv[2:])
    else:
        write(Path(sys.argv[1]))
