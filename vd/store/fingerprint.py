"""What something was made from: settings, data and code, and whether any of it has changed since.

Jobs, checkpoints, replies, judges and clusters all use this one notion. A fingerprint holds

    settings   every value that was asked for, by its key
    data       a hash of each data set or file that was read, by its name
    code       a hash of each function, class and constant of vd that can change a number, by its
               dotted name: those that are used, directly or through others

What cannot change a number is no part of it: comments, docstrings, layout, error texts and the
checks that raise them, lines of progress, the modules in `SILENT`. A key that is new since then
counts as unchanged while it has its default, for that is what it meant before it was there.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from vd import paths
from vd.store.files import write_text
from vd.store.syntax import DOCUMENTED, plain_text

SILENT = (  # parts of vd in which no number is made
    "vd.paths",  # where files lie
    "vd.store",  # how they are written, what is said meanwhile
    "vd.study",  # a study counts by its values
    "vd.workflow",  # which job runs when
)
COUNTED = ("vd.study.steps", "vd.store.formats")  # of these, what makes numbers all the same
WHOLE, EFFECTS = "*", "on import"  # of a module, in place of a symbol


@dataclass(frozen=True)
class Fingerprint:
    """What something is to be made from; `defaults` are keys of `settings` that nobody wrote."""

    settings: dict[str, object] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    defaults: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """A short hash of all of it, to name what is made."""
        return digest(self.text)[:8]

    @property
    def text(self) -> str:
        """JSON on one line, as it is kept beside what was made."""
        parts = {"settings": self.settings, "data": self.data, "code": self.code}
        return json.dumps(parts, sort_keys=True, ensure_ascii=True)

    def changes(self, record: Path) -> list[str]:
        """What differs from a record, such as `code vd.probing.sampling.ask`; none if all is alike.

        A record that is not there, or cannot be read, differs in everything.
        """
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
            found = list(self._changes(before))
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return ["all"]
        return found

    def write(self, record: Path) -> None:
        """Keep it beside what was made."""
        write_text(self.text + "\n", record)

    def _changes(self, before: dict) -> Iterator[str]:
        # Through JSON, as the record went: a tuple, say, comes back as a list.
        now = json.loads(self.text)
        for part in ("settings", "data", "code"):
            for name in sorted(now[part].keys() | before[part].keys()):
                # Only for settings: code and data that are new were not there to be used.
                new = part == "settings" and name not in before[part] and name in self.defaults
                # missing is `...`, since None is a value that a setting may have
                if not new and now[part].get(name, ...) != before[part].get(name, ...):
                    yield f"{part} {name}"


def values(**settings: BaseModel | object) -> dict[str, dict | frozenset]:
    """The parts `settings` and `defaults` of a fingerprint: nested keys, joined by dots."""
    found, defaults = {}, set()
    for name, value in settings.items():
        for key, own, default in _flat(name, value, False):
            found[key] = own
            defaults |= {key} if default else set()
    return {"settings": found, "defaults": frozenset(defaults)}


def _flat(key: str, value, default: bool) -> Iterator[tuple[str, object, bool]]:
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            own = getattr(value, name)
            same = default or (not info.is_required() and own == info.get_default())
            if info.exclude is not True:  # those change no answer
                yield from _flat(f"{key}.{name}", own, same)
    elif isinstance(value, dict) and value:
        for name, own in value.items():
            yield from _flat(f"{key}.{name}", own, default)
    else:
        yield key, value, default


def code(*roots: str, sources: Iterable[str] = (), without: Iterable[str] = ()) -> dict[str, str]:
    """Hashes of all that can change a number behind `roots`, dotted names, and pieces of code.

    The same for every Python. `without` are beginnings of names to leave out.
    """
    left_out = (*SILENT, *without)
    sources = list(sources)
    # Each cell counts by itself, so that a record says which one was edited.
    found = {
        f"cell {i}": digest(plain_text(ast.parse(source))) for i, source in enumerate(sources, 1)
    }
    whole = "\n".join(sources)  # cells share their names
    wanted = {*roots, *_used(ast.parse(whole), None, whole)}
    # Each name leads to those that it uses, until there is none that was not seen.
    while wanted:
        name = wanted.pop()
        place, symbol = _place(name)
        if name in found or place is None or _within(name, left_out):
            continue
        nodes = _symbols(place)
        if symbol == WHOLE:
            wanted |= {f"{place}.{own}" for own in nodes if own != WHOLE}
        elif symbol in nodes:  # and not a module's own `import numpy as np`, say
            found[name] = _digest_of(_text(_file(place)), symbol)
            wanted |= _behind(place, symbol, _text(_file(place)))
    return dict(sorted(found.items()))


def digest(*texts: str) -> str:
    """A short hash of texts."""
    # surrogatepass: half a character in a text could not be encoded otherwise
    content = "\n".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:16]


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _within(name: str, left_out: Iterable[str]) -> bool:
    there = any(name == part or name.startswith(f"{part}.") for part in left_out)
    return there and not any(name.startswith(f"{part}.") for part in COUNTED)


def _place(name: str) -> tuple[str | None, str]:
    """A dotted name as module and symbol."""
    if _file(name):
        return name, WHOLE
    module, _, symbol = name.rpartition(".")  # vd.drift.* is all of vd.drift
    return (module, symbol) if _file(module) else (None, "")


@cache
def _digest_of(source: str, symbol: str) -> str:
    """A hash of what a module defines under a name."""
    return digest(*map(plain_text, _parsed(source)[symbol]))


@cache
def _behind(place: str, symbol: str, source: str) -> set[str]:
    """Dotted names that a symbol uses, and what its module does on being imported."""
    nodes = _parsed(source)
    found = {f"{place}.{EFFECTS}"} if EFFECTS in nodes else set()
    return found.union(*(_used(node, place, source) for node in nodes[symbol]))


def _used(tree: ast.AST, place: str | None, source: str) -> set[str]:
    """Dotted names of vd that a piece of code mentions; `source` holds its imports."""
    # `drift.table` counts as that function alone, but the word `drift` by itself would count as all
    # of its module: so attributes come first, and their words are not counted again.
    known, own = _names(source), _symbols(place) if place else {}
    found, seen = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = known.get(node.value.id)
            if name and _file(name):
                seen.add(id(node.value))
                found.add(f"{name}.{node.attr}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and id(node) not in seen:
            if node.id in known:
                found.add(known[node.id])
            elif node.id in own:
                found.add(f"{place}.{node.id}")
    return found


@cache
def _names(source: str) -> dict[str, str]:
    """What the imports of a piece of code bring from vd, anywhere in it: local to dotted name."""
    found = {}
    # `from vd ... import` is the one form in which vd's modules are imported.
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vd":
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _symbols(module: str) -> dict[str, list[ast.AST]]:
    """What a module defines at its top level, by name.

    Those that define nothing under `EFFECTS`.
    """
    return _parsed(_text(_file(module)))


@cache
def _parsed(source: str) -> dict[str, list[ast.AST]]:
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, DOCUMENTED):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            kinds = (ast.Name,)
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, kinds)]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the docstring
        else:
            # such as a loop or a call: it is run whenever the module is imported
            names = [EFFECTS]
        for name in names:
            # a list, since a constant may be added to further down
            found.setdefault(name, []).append(node)
    return found


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _file(module: str) -> Path | None:
    """The file of a vd module, or None if the name is not a module."""
    path = paths.ROOT / (module or "?").replace(".", "/")
    there = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in there if file.is_file()), None)
