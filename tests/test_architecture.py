"""The house rules: which module may import which, what importing costs, how notebooks are built."""

import ast
import json
import re
import subprocess
import sys
import time

import pytest

from vd import paths, plugins
from vd.workflow import notebooks

MODULES = {
    ".".join(file.relative_to(paths.ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in (paths.ROOT / "vd").rglob("*.py")
}
NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
PAGES = [paths.ROOT / "README.md", *paths.CORPORA.glob("*.md")]
PAGES += [paths.ROOT / name / "README.md" for name in ("results", "notebooks", "vd")]
PAGES += [paths.NOTEBOOKS / "configs" / "README.md"]
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate"}


ROOMS = [  # data flow from left to right, so imports lead to the left; loose modules come first
    "loose",
    "store",
    "study",
    "servers",
    "models",
    "data",
    "readers",
    "judging",  # stories judge later, but a judge may be what a method learns from
    "rewards",
    "training",
    "methods",
    "costs",
    "probing",
    "evaluations",
    "drift",
    "recipes",
    "findings",
    "figures",
    "workflow",
]
LOOSE = {"finite", "lineages", "paths", "plugins", "stances", "values"}


def room(module):
    """The folder of vd that a module lies in."""
    parts = module.split(".")
    return "loose" if len(parts) == 2 and parts[1] in LOOSE else parts[1]


def imports(module):
    """Modules of vd that a module imports anywhere in its file, those found by name left out."""
    named = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
    return (named & MODULES.keys()) - {module, "vd"}


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


METHOD_NAMES = [f"{q}{name}{q}" for name in plugins.names("methods") for q in "'\""]
LIGHT = ("stances", "drift", "findings", "figures", "workflow")  # rooms that need no model
KNOW_NO_METHOD = ("probing", "judging", "evaluations", "drift")


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"vd", "vd.__main__"}))
def test_imports_lead_to_the_left(module):
    here = room(module)
    if here == "corpora":  # texts alone
        assert not imports(module)
        return
    wrong = {other for other in imports(module) if ROOMS.index(room(other)) > ROOMS.index(here)}
    assert not wrong, f"{here} may import from {', '.join(ROOMS[: ROOMS.index(here) + 1])}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_are_absolute(module):
    """What a thing was made from is found by its imports, and relative ones are not seen."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]


def test_there_are_few_loose_modules_and_none_is_long():
    assert {module for module in MODULES if module.count(".") == 1} - {
        f"vd.{name}" for name in ROOMS[1:]
    } == {f"vd.{name}" for name in LOOSE} | {"vd.__main__", "vd.corpora"}
    lengths = {
        module: len(file.read_text(encoding="utf-8").splitlines())
        for module, file in MODULES.items()
    }
    assert not {module: lines for module, lines in lengths.items() if lines > 300}


@pytest.mark.parametrize("room", ROOMS[1:])
def test_a_room_does_not_load_all_that_is_in_it(room):
    body = ast.parse(MODULES[f"vd.{room}"].read_text(encoding="utf-8")).body
    assert len(body) == 1 and isinstance(body[0].value, ast.Constant)


@pytest.mark.parametrize(
    "module", sorted(m for m in MODULES if m.split(".")[1:2] in [[r] for r in LIGHT])
)
def test_analysis_reaches_nothing_that_trains(module):
    assert not {lib for name in reached(module) for lib in libraries(name, top_level=False)} & HEAVY


@pytest.mark.parametrize(
    "module", sorted(m for m in MODULES if m.split(".")[1:2] in [[r] for r in KNOW_NO_METHOD])
)
def test_what_comes_after_training_knows_no_method(module):
    assert not {name for name in reached(module) if name.startswith("vd.methods")}
    assert not [
        text for text in METHOD_NAMES if text in MODULES[module].read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_are_read_and_written_in_utf_8_whatever_the_locale(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "open":
            binary = any("b" in str(a.value) for a in node.args if isinstance(a, ast.Constant))
        elif isinstance(called, ast.Attribute) and called.attr in ("read_text", "write_text"):
            binary = getattr(called.value, "id", "") == "files"  # our own, which is in UTF-8
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
        "00_start",
        "01_given",
        "01_sft",
        "02_preference",
        "02_scorer",
        "03_probe",
        "04_evaluate",
        "04_judge",
        "04_trust",
        "05_drift",
        "06_figures",
        "07_tables",
        "08_findings",
        "09_explore",
        "A1_vprism",
        "A2_recipe",
        "A3_paid_judge",
        "A4_lab",
        "A5_visa",
        "A6_constitution",
        "A7_feedback",
    ]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_notebooks_are_built_alike(notebook):
    book = json.loads(notebook.read_text())
    start = notebook.stem == "00_start"  # a page to begin with, of the study that has a result
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    sizes = sorted(
        sum(bool(line.strip()) for line in "".join(c["source"]).splitlines()) for c in code
    )
    prose = sum(
        len("".join(c["source"]).split()) for c in book["cells"] if c["cell_type"] == "markdown"
    )
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    # 06_figures shows eight pictures
    assert notebook.stat().st_size < (350_000 if notebook.stem == "06_figures" else 300_000)
    assert (12 if start else 20) <= len(book["cells"]) <= 45
    assert sizes[len(sizes) // 2] <= 6 and sizes[-1] <= 40
    assert 3 <= prose / sum(sizes) <= (20 if start else 13)
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
    # what `pocket` has no run for is shown at smoke, and says so
    at_smoke = notebook.stem == "01_given" or notebook.stem.startswith("A")
    assert defaults["STUDY"] == ("smoke" if at_smoke else "pocket")
    assert at_smoke or "tiny-llama" not in json.dumps([c["outputs"] for c in code])
    assert not [c for c in code if "NBVAL" in "".join(c["source"])], "test markers are cell tags"
    tagged = next(c for c in code if "parameters" in c["metadata"].get("tags", []))
    assert all("#" in line for line in tagged["source"]), "every parameter is commented"


def test_notebooks_lead_to_the_one_before_to_the_next_and_to_the_list_of_all():
    listed = (paths.NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    order = re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\)", listed, flags=re.M)
    assert sorted(order) == [n.stem for n in NOTEBOOKS]
    for before, name, after in zip([None, *order], order, [*order[1:], None], strict=False):
        cells = json.loads(paths.notebook(name).read_text(encoding="utf-8"))["cells"]
        there = [f"← [{before}]({before}.ipynb)"] * bool(before) + ["[all notebooks](README.md)"]
        there += [f"[{after}]({after}.ipynb) →"] * bool(after)
        assert "".join(cells[-1]["source"]) == " · ".join(there), name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_links_between_notebooks_and_files_lead_somewhere(notebook):
    text = "".join("".join(c["source"]) for c in json.loads(notebook.read_text())["cells"])
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (notebook.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(paths.ROOT)))
def test_links_of_pages_lead_somewhere(page):
    """Files and folders, and headings of pages."""
    for target in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not heading or heading in headings(file), target


def headings(page):
    """Anchors of a page's headings, as code hosts make them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
