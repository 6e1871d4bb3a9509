"""Methods by name: what one reads and makes, and the keys that a study may write for it.

A file of vd/methods holds

    READS       texts, pairs, steps or prompts: which reader of vd/data/sets.py its data pass; None
                for a method that trains on nothing
    MAKES       policy: a model that is probed; scorer: one that gives scores, and that other runs
                name with their key `scorer`
    Settings    its keys: MethodSettings, TrainingSettings or PreferenceSettings, and its own
    train       (run: Run) -> list[Path]: run in, checkpoint folders out
    CURVES      columns of metrics.csv to draw

and, for plans, FROZEN (models that it reads beside the one it trains, 0 if left out), TRAINED (how
many it trains, 1), PASSES (how often a step goes through its batch, 1) and WRITES (whether it
writes replies while it trains).
"""

import ast
import functools
from pathlib import Path
from typing import get_args

from vd import paths
from vd.study.file import shown
from vd.study.found import check_settings, imported
from vd.study.runs import Makes, Reads
from vd.study.settings import MethodSettings

NEEDED = {"READS", "MAKES", "Settings", "train"}
SECTIONS = {  # what methods of a section read and make
    "sft": "read texts (or nothing) and make a policy",
    "scorers": "make a scorer",
    "preference": "read pairs, steps or prompts and make a policy",
}


def methods() -> list[str]:
    """Names of the methods: those files of vd/methods that hold all that one needs."""
    # Read, not imported: a mistake in one method must not stop studies that do not name it.
    folder = paths.ROOT / "vd" / "methods"
    files = [file for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
    return [f.stem for f in files if _defined(f, f.stat().st_mtime_ns) >= NEEDED]


def method_of(section: str, entry: dict):
    """The module behind an entry's method; LookupError says why there is none."""
    method = entry.get("method", "sft" if section == "sft" else None)
    known, file = methods(), f"vd/methods/{method}.py"
    if method not in known:
        # Adding a file is advice only for a name that a file can have, and where there is none.
        new = isinstance(method, str) and method.isidentifier()
        there = new and (paths.ROOT / file).exists()
        add = f"add {file} with {', '.join(sorted(NEEDED))}"
        fix = f", or {add}" if new and not there else ""
        fix = f"; {file} lacks some of {', '.join(sorted(NEEDED))}" if there else fix
        raise LookupError(f"no method {shown(method)}; write one of {', '.join(known)}{fix}")
    module = imported("methods", method)
    _check(module, file)
    # after the check of READS and MAKES, which decide the section
    if _section(module) != section:
        fit = ", ".join(name for name in known if _fits(name, section))
        what = SECTIONS[section]
        raise LookupError(f"'{method}' is no method of this section, whose methods {what}: {fit}")
    if section == "preference" and not hasattr(module, "CURVES"):
        raise LookupError(f"{file} has no CURVES, the metrics that 02_preference draws; add them")
    return module


def _check(module, file: str) -> None:
    check_settings(module, file, MethodSettings, ("TrainingSettings", "PreferenceSettings"))
    for name, kinds in (("READS", (*get_args(Reads), None)), ("MAKES", get_args(Makes))):
        if getattr(module, name) not in kinds:
            known = ", ".join(map(str, kinds))
            raise LookupError(f"{file}: {name} is {getattr(module, name)!r}; write one of {known}")


def _fits(name: str, section: str) -> bool:
    try:
        return _section(imported("methods", name)) == section
    except LookupError:  # another method is broken, which is no matter of this entry
        return False


def _section(module) -> str:
    if module.MAKES == "scorer":
        return "scorers"
    return "sft" if module.READS in ("texts", None) else "preference"


@functools.cache
def _defined(file: Path, changed: int) -> set[str]:
    """Names of a module's top level, found without importing it."""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        return NEEDED  # importing it will say what is wrong
    # Settings and train may be defined, imported or assigned: `Settings = PreferenceSettings`.
    names = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names
