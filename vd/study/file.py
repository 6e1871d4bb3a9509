"""The file of a study: where it is, and how its mistakes are told: file, key, and fix.

How it is read is the matter of vd/study/reading.py, what its keys mean that of
vd/study/settings.py.
"""

import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from vd import paths

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")  # it becomes a folder
RULE = "up to 100 letters, digits, '-', '_' and '.', a letter or digit first and no '.' last"
DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # no folder on Windows
FILE = re.compile(r"(?i).*\.(csv|json|jsonl|lock|md|parquet|part|yaml)")
COMMANDS = ("lab", "lock", "test")  # of reproduce.sh, so they cannot name a study
MISSING = {"method": "write method: dpo", "parent": "write the run that it starts from"}


class StudyError(ValueError):
    """A mistake in a study file: which file, which key, what to write instead."""


def misnamed(name: str, what: str, reserved: tuple[str, ...] = ()) -> str | None:
    """What is wrong with the name of a run, model or study; None if nothing is."""
    if not NAME.fullmatch(name):
        return f"not a {what} name; use {RULE}"
    # a run id ends in seed-S, and is taken apart there
    taken = name.lower() in reserved or name.lower().startswith("seed-")
    # Runs may be called like files: they lie below their model's folder, where there are none.
    if taken or DEVICE.fullmatch(name) or (what != "run" and FILE.fullmatch(name)):
        why = f"not a {what} name, since something else is called so"
        return f"{why}; write another, such as my-{what}"
    return None


def find(name: str) -> Path:
    """The file of the study with this name; raises StudyError with what there is instead."""
    folder = paths.configs()
    try:
        files = sorted(os.listdir(folder))
    except OSError as failure:
        fix = "correct VD_CONFIGS, the folder of studies"
        raise StudyError(f"{folder}: {failure.strerror}; {fix}") from None
    known = sorted(file.removesuffix(".yaml") for file in files if file.endswith(".yaml"))
    known = [other for other in known if not misnamed(other, "study", COMMANDS)]
    # the name of the study, where its file or its path is given
    plain = re.sub(r"(?i)\.ya?ml$", "", name.rpartition("/")[2])
    if plain != name and plain in known:
        fix = f"a study is named without folder and ending; write {plain}"
        raise StudyError(f"{folder}: {name!r}: {fix}")
    if wrong := misnamed(name, "study", COMMANDS):
        raise StudyError(f"{folder}: {name!r}: {wrong}; rename the study's file")
    if f"{name}.yaml" in files:  # some file systems would find Pocket.yaml as pocket.yaml
        return paths.config(name)
    for file in files:
        if re.fullmatch(rf"(?i){re.escape(name)}\.ya?ml", file):
            fix = f"rename it to {name}.yaml, or write its name as it is"
            raise StudyError(f"{folder / file}: no study is called '{name}'; {fix}")
    raise StudyError(f"{paths.config(name)}: no such study; there are {', '.join(known)}")


def study_error(path: Path, mistakes: Iterable[tuple[str, str]]) -> StudyError:
    """An error with all mistakes (key or line, what is wrong and what to write), one a line."""
    # once each: an entry makes the same mistake in its run of every model, seed and parent
    lines = dict.fromkeys(f"{path}: {key}: {what}" for key, what in mistakes)
    return StudyError("\n".join(lines))


def explain(prefix: str, content: dict, refused: ValidationError) -> Iterator[tuple[str, str]]:
    """(key, mistake and fix) for all values that pydantic refuses; `prefix` is the key above."""
    found = {}
    for e in refused.errors():
        found.setdefault(_key(prefix, content, e), []).append(e)
    for key, errors in found.items():
        if any(other.startswith(f"{key}.") for other in found):
            continue  # the value may be of two kinds, and is of the other one
        if isinstance(errors[0]["input"], list) and len(errors) > 1:
            # The key takes a word or a list and was given a list: what is wrong within the list
            # counts.
            others = [e for e in errors if e["type"] not in ("string_type", "literal_error")]
            errors = others or errors
        yield key, " or ".join(dict.fromkeys(map(fix, errors)))


def fix(e: dict) -> str:
    """What is wrong with one value that pydantic refuses, and what to write instead."""
    given, kind = e["input"], e["type"]
    if "url" not in e:  # one of our own, which says it all
        return e["msg"]
    if kind == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if kind == "missing":
        return f"missing; {MISSING.get(e['loc'][-1], 'add it')}"
    # first, since an empty value is refused as one of a wrong kind
    if given is None:
        return "empty; write a value, or remove the key"
    if isinstance(given, str) and kind.startswith(("float", "int", "greater_than", "less_than")):
        return _as_number(given)
    if kind == "string_type" and isinstance(given, bool):
        return "YAML reads yes, no, on and off as true and false; put quotes around it"
    if kind == "string_type" and isinstance(given, int | float):
        return f"YAML reads {shown(given)} as a number; put quotes around it"
    if kind in ("dict_type", "model_type"):
        return "write keys and their values, one a line"
    secret = e["loc"][-1:] == ("base_url",)  # it may hold a password
    return _wanted(e) if secret else f"{_wanted(e)} (got {shown(given)})"


def shown(value: object) -> str:
    """A value as part of a line: short, and without line ends."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)


def word(text: str) -> str:
    """A name as part of a line: as it is, where that can be read."""
    return text if text.isprintable() and 0 < len(text) <= 200 else shown(text)


def _key(prefix: str, content: dict, e: dict) -> str:
    """The key of an error as the file has it, without pydantic's words for kinds of values."""
    parts, value = [prefix] if prefix else [], content
    for i, part in enumerate(e["loc"]):
        # Followed along the value: the location also names members of unions, which are no keys.
        there = range(len(value)) if isinstance(value, list) else value
        if isinstance(there, dict | range) and part in there:
            value = value[part]
        elif i < len(e["loc"]) - 1 or e["type"] != "missing":
            continue
        parts.append(word(str(part)))
    return ".".join(parts)


def _wanted(e: dict) -> str:
    """What a value should be, in words."""
    given, kind = e["input"], e["type"]
    if kind == "list_type" and isinstance(given, str | int):
        return f"write a list, [{word(str(given))}]"
    if kind == "bool_type":
        return "write true or false, without quotes"
    if kind == "too_short":
        return f"write at least {e['ctx']['min_length']}"
    return e["msg"].removeprefix("Value error, ")


def _as_number(given: str) -> str:
    """What to write for a number that YAML reads as text."""
    # YAML 1.1 takes 1e-4 for text and 1.0e-4 for a number: what is missing is the point.
    mantissa, _, exponent = given.lower().partition("e")
    try:
        number = repr(float(mantissa)) + (f"e{int(exponent)}" if exponent else "")
        finite = math.isfinite(float(number))
    except ValueError:
        finite = False
    if not finite:
        return f"{shown(given)} is not a number; write one"
    return f"YAML reads {shown(given)} as a string; write {number}"
