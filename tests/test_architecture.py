"""The house rules: which module may import which, what importing costs, how notebooks are built."""

import ast
import json
import re
import subprocess
import sys
import time

import pytest

from vd import paths
from vd.store import fingerprint
from vd.workflow import notebooks

MODULES = {
    ".".join(file.relative_to(paths.ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in (paths.ROOT / "vd").rglob("*.py")
}
NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate"}


def imports(module):
    """Modules of vd that a module imports anywhere in its file, methods found by name left out."""
    return fingerprint.imported(MODULES[module].read_text()) - {module, "vd"}


def reached(module):
    """All modules of vd behind a module."""
    found, wanted = set(), {module}
    while wanted:
        name = wanted.pop()
        found.add(name)
        wanted |= imports(name) - found
    return found


def libraries(module, top_level=True):
    """Third-party libraries that a module imports, at its top level or anywhere."""
    tree = ast.parse(MODULES[module].read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


ALLOWED = {  # arrows point one way, from what is asked to what is shown
    "vd.paths": set(),
    "vd.public": {"files", "paths", "rows"},
    "vd.sources": set(),
    "vd.study_file": {"paths"},
    "vd.study_inputs": {"files", "paths", "public", "sources", "study_file"},
    "vd.study_checks": {"study_file", "study_inputs"},
    "vd.study": {"paths", "study_checks", "study_file", "study_inputs"},
    "vd.record": {"paths", "progress"},
    "vd.data": {"files", "paths", "public", "rows", "shown", "study"},
    "vd.finite": set(),
    "vd.chat": set(),
    "vd.models": {"chat", "finite", "paths", "sources", "study"},
    "vd.probe": {"chat", "data", "finite", "models", "paths", "record", "study"},
    "vd.judge": {"data", "finite", "models", "paths", "record", "study"},
    "vd.api_cache": {"answers"},
    "vd.api_client": {"api_budget", "api_key", "api_pace", "api_response", "record", "study"},
    "vd.api_batch": {
        "answers",
        "api_budget",
        "api_cache",
        "api_client",
        "api_response",
        "record",
        "study",
    },
    "vd.api_judge": {
        "answers",
        "api_batch",
        "api_budget",
        "api_cache",
        "api_client",
        "api_prompt",
        "api_response",
        "paths",
        "ppi",
        "record",
        "study",
    },
    "vd.api_prompt": {"answers", "api_response", "paths", "study"},
    "vd.agreement": {"files", "record", "shown"},
    "vd.ppi": {"drift"},
    "vd.drift": set(),
    "vd.findings": {"drift", "paths", "record", "study"},
    "vd.teacher": {
        "answers",
        "api_budget",
        "api_client",
        "api_key",
        "api_response",
        "record",
        "study",
    },
    "vd.topics": {"data", "finite", "models", "study"},
    "vd.questions": {"data"},
    "vd.vprism": {
        "answers",
        "api_cache",
        "api_client",
        "data",
        "files",
        "models",
        "paths",
        "public",
        "questions",
        "record",
        "rows",
        "study",
        "topics",
    },
    "vd.plots": {"drift", "record", "shown"},
    "vd.tables": {"plots", "record", "shown"},
    "vd.workflow": {"files", "launch", "paths", "public", "study"},
    "vd.corpora": set(),
    "vd.__main__": {
        "agreement",
        "api_cache",
        "api_client",
        "api_judge",
        "data",
        "paths",
        "record",
        "study",
        "study_inputs",
    },
    "vd.answers": set(),
    "vd.api_key": set(),
    "vd.api_pace": set(),
    "vd.api_response": {"answers", "api_key", "api_pace", "study"},
    "vd.api_budget": {"api_response", "study"},
    "vd.files": set(),
    "vd.shown": set(),
    "vd.rows": {"files", "shown"},
    "vd.progress": set(),
    "vd.launch": {"paths", "record"},
    "vd.job": {"launch", "progress", "record"},
}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"vd"}))
def test_arrows_point_one_way(module):
    if module.startswith("vd.methods"):
        allowed = {"paths", "study", "record", "data", "models", "finite"}
        allowed |= {"methods", "methods.trainer", "methods.reward"}
    else:
        allowed = ALLOWED[module]
    assert imports(module) <= {f"vd.{name}" for name in allowed}


@pytest.mark.parametrize(
    "module",
    ["vd.agreement", "vd.drift", "vd.findings", "vd.plots", "vd.ppi", "vd.tables", "vd.workflow"],
)
def test_analysis_reaches_nothing_that_trains(module):
    assert not {lib for name in reached(module) for lib in libraries(name, top_level=False)} & HEAVY


@pytest.mark.parametrize("module", ["vd.api_judge", "vd.judge", "vd.probe"])
def test_probe_and_judge_know_no_method(module):
    assert not {name for name in reached(module) if name.startswith("vd.methods")}
    assert "trl" not in {
        lib for name in reached(module) for lib in libraries(name, top_level=False)
    }


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_are_read_and_written_in_utf_8_whatever_the_locale(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "open":
            binary = any("b" in str(a.value) for a in node.args if isinstance(a, ast.Constant))
        elif isinstance(called, ast.Attribute) and called.attr in ("read_text", "write_text"):
            binary = getattr(called.value, "id", "") == "record"  # our own, which is in UTF-8
        else:
            continue
        named = "encoding" in {keyword.arg for keyword in node.keywords}
        assert binary or named, f"line {node.lineno}: text without encoding"


def test_nothing_imports_a_notebook():
    for file in MODULES.values():
        assert "%run" not in file.read_text() and "import_ipynb" not in file.read_text()


def test_import_is_cheap():
    def seconds(code):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    assert (
        min(seconds("import vd") for _ in range(3)) - min(seconds("pass") for _ in range(3)) < 0.3
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_and_public_functions_say_what_they_are(module):
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), "no module docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_notebooks_are_the_series():
    names = [n.stem for n in NOTEBOOKS]
    assert names == [
        "00_data",
        "00_stance_profile",
        "01_sft",
        "02_preference",
        "03_probe",
        "04_judge",
        "05_drift",
        "06_figures",
        "07_tables",
        "08_findings",
        "09_synthetic_pairs",
        "10_paid_judge",
    ]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_notebooks_are_built_alike(notebook):
    book = json.loads(notebook.read_text())
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    sizes = sorted(
        sum(bool(line.strip()) for line in "".join(c["source"]).splitlines()) for c in code
    )
    prose = sum(
        len("".join(c["source"]).split()) for c in book["cells"] if c["cell_type"] == "markdown"
    )
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook.stat().st_size < 300_000
    assert 20 <= len(book["cells"]) <= 45
    assert sizes[len(sizes) // 2] <= 6 and sizes[-1] <= 40
    assert 3 <= prose / sum(sizes) <= 8.5
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), (
        "run all cells in order, then save"
    )
    assert not [
        o
        for c in code
        for o in c["outputs"]
        if o["output_type"] == "error" or o.get("name") == "stderr"
    ]
    defaults = notebooks.parameters(notebook)
    assert defaults["STUDY"] == "smoke"
    tagged = next(c for c in code if "parameters" in c["metadata"].get("tags", []))
    assert all("#" in line for line in tagged["source"]), "every parameter is commented"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_links_between_notebooks_and_files_lead_somewhere(notebook):
    text = "".join("".join(c["source"]) for c in json.loads(notebook.read_text())["cells"])
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (notebook.parent / target).exists(), target


def test_readme_links_lead_somewhere():
    text = (paths.ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (paths.ROOT / target).exists(), target
