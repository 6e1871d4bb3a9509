"""Notebooks as files: their code cells and parameters."""

import ast
import json
import os
import re
from pathlib import Path


def code_cells(notebook: Path) -> list[str]:
    """Sources of a notebook's code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def parameters(notebook: Path) -> dict:
    """Names and defaults of a notebook's parameters.

    The literals of its cell tagged `parameters`.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(
            f"{notebook}: {len(tagged)} cells are tagged 'parameters'; tag exactly one"
        )
    return {
        n.targets[0].id: ast.literal_eval(n.value)
        for n in ast.parse("".join(tagged[0]["source"])).body
    }


def relink(copy: Path, source: Path, place: Path) -> None:
    """Let relative links in the prose of a copy of `source` lead to the same files from `place`,
    where the copy will lie.
    """
    book = json.loads(copy.read_text(encoding="utf-8"))

    def led(found: re.Match) -> str:
        name, heading = found[1], found[2] or ""
        there = os.path.relpath(source.parent / name, place.parent)
        return f"]({Path(there).as_posix()}{heading})"

    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"\]\(([^):#]+)(#[^)]*)?\)", led, "".join(cell["source"]))
            cell["source"] = text.splitlines(keepends=True)
    text = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    copy.write_text(text, encoding="utf-8")
