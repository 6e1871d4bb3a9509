"""What connects studies, notebooks and Snakemake: hashes of code, and making what a notebook needs.

A step is run again when its settings, its data or its code change. Its code is the notebook's code cells plus the vd
modules these import, directly or through others; prose and outputs do not count.
"""

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from vd import paths, public


def code_cells(notebook: Path) -> list[str]:
    """Sources of a notebook's code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def parameters(notebook: Path) -> dict:
    """Names and defaults of a notebook's parameters: the literals of its cell tagged `parameters`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: {len(tagged)} cells are tagged 'parameters'; tag exactly one")
    return {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse("".join(tagged[0]["source"])).body}


def imported(source: str) -> set[str]:
    """Modules of vd that a piece of code imports, as dotted names such as `vd.drift`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vd":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "vd"}
    return {name for name in names if _file(name)}


def code_hash(notebook: Path, method: str | None = None, without: tuple[str, ...] = ()) -> str:
    """Hash of a notebook's code cells and of all vd modules behind them, as syntax trees.

    `method` adds a module that is found by name; `without` leaves modules out that change no number of this notebook.
    """
    sources = code_cells(notebook)
    wanted = {name for source in sources for name in imported(source)} | ({f"vd.methods.{method}"} if method else set())
    seen, wanted = set(), wanted - set(without)
    while wanted:
        name = wanted.pop()
        seen.add(name)
        wanted |= imported(_file(name).read_text(encoding="utf-8")) - seen - set(without)
    # the syntax tree, so that comments and layout do not count
    trees = [ast.dump(ast.parse(s)) for s in [*sources, *(_file(n).read_text(encoding="utf-8") for n in sorted(seen))]]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()[:16]


def data_hash(*names: str) -> str:
    """Hash of data sets: of a file's content, of where a public one is read, or of a name that is no file (yet)."""
    return hashlib.sha256(b"\n".join(map(_content, names))).hexdigest()[:16]


def make(study: str, *targets: Path) -> None:
    """Make files that do not exist yet by running the workflow, so that every notebook can be run alone.

    Says nothing while it does: what a cell prints must not depend on what was there before.
    """
    missing = [os.path.relpath(target, paths.ROOT) for target in targets if not target.exists()]
    if not missing:
        return
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(paths.NOTEBOOKS / "Snakefile"),
        "--directory",
        str(paths.ROOT),
        "--cores",
        str(os.cpu_count()),
        "--config",
        f"study={study}",
        "--quiet",
        "rules",
        "host",
        "--",
        *missing,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"the workflow could not make {', '.join(missing)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )


def _content(name: str) -> bytes:
    if name in public.PUBLIC:
        return public.fingerprint(name).encode()
    file = paths.data_file(name) if name.endswith((".jsonl", ".yaml")) else paths.CORPORA / f"{name}.jsonl"
    return file.read_bytes() if file.exists() else name.encode()


def _file(module: str) -> Path | None:
    """The file of a vd module, or None if the name is not a module."""
    path = paths.ROOT / module.replace(".", "/")
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()), None)
