"""Notebooks as files: their code cells and parameters."""

import ast
import json
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
