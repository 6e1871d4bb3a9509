"""How the file of a study is found and read, and how its mistakes are told: file, key, and fix.

YAML takes much that nobody means: a key that is written twice replaces the first, 010 is eight, and
`no` is a truth value. Here a file has one meaning, or it is an error with its line. What keys mean
is the matter of vd/study/settings.py.
"""

import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from vd import paths

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")  # it becomes a folder
RULE = "up to 100 letters, digits, '-', '_' and '.', a letter or digit first and no '.' last"
DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # no folder on Windows
FILE = re.compile(r"(?i).*\.(csv|json|jsonl|lock|md|parquet|part|yaml)")
COMMANDS = ("lab", "lock", "test")  # of reproduce.sh, so they cannot name a study
LARGEST = 100_000  # values in a study, with aliases written out
DEEPEST = 20  # levels of keys
TAG = "tag:yaml.org,2002:"
READ_AS = {"bool": "true or false", "null": "nothing", "timestamp": "a date"}
READ_AS |= {"int": "a number", "float": "a number"}
NUMBERS = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"),
}
MISSING = {"method": "write method: dpo", "parent": "write the run that it starts from"}
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


class StudyError(ValueError):
    """A mistake in a study file: which file, which key, what to write instead."""


def misnamed(name: str, what: str, reserved: tuple[str, ...] = ()) -> str | None:
    """What is wrong with the name of a run, model or study; None if nothing is."""
    if not NAME.fullmatch(name):
        return f"not a {what} name; use {RULE}"
    taken = name.lower() in reserved or name.lower().startswith("seed-")
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


def read(path: Path) -> dict:
    """Keys and values of a study's file; raises StudyError with all lines of more or less than one
    meaning."""
    text = _text(path)
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            fix = f"start from {paths.config('smoke')}"
            raise StudyError(f"{path}: empty or not a mapping; {fix}")
        if wrong := sorted(set(_Reading().wrong(node))):
            raise study_error(path, ((f"line {line}", what) for line, what in wrong))
        return loader.construct_document(node)
    except RecursionError:
        fix = f"remove levels of keys, down to {DEEPEST}"
        raise StudyError(f"{path}: line 1: nested too deeply; {fix}") from None
    except yaml.YAMLError as failure:
        raise study_error(path, [_not_yaml(text, failure)]) from None


def study_error(path: Path, mistakes: Iterable[tuple[str, str]]) -> StudyError:
    """An error with all mistakes (key or line, what is wrong and what to write), one a line."""
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


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as failure:
        why = f"{failure.strerror}; a study is a file that can be read"
        raise StudyError(f"{path}: {why}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StudyError(f"{path}: line 1: this is UTF-16; save the file as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = content[: failure.start].count(b"\n") + 1
        why = f"byte {content[failure.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise StudyError(f"{path}: line {line}: {why}") from None
    if control := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text[: control.start()].count("\n") + 1
        why = f"control character U+{ord(control.group()):04X}; remove it, and save as UTF-8"
        raise StudyError(f"{path}: line {line}: {why}")
    return text


def _not_yaml(text: str, failure: yaml.YAMLError) -> tuple[str, str]:
    mark = getattr(failure, "problem_mark", None) or getattr(failure, "context_mark", None)
    said = [getattr(failure, name, None) for name in ("context", "problem")]
    said = " ".join(" ".join(part.split()) for part in said if part) or "it cannot be read"
    number = mark.line if mark else 0
    tab = "\t" in "".join(text.split("\n")[number : number + 1])
    fix = "use spaces in place of tabs" if tab else "correct it, or what stands before"
    return f"line {number + 1}", f"not valid YAML: {said}; {fix}"


class _Reading:
    """Looks through the nodes of a YAML document, before anything is made of them."""

    def __init__(self):
        self.sizes = {}  # values in each node, by its identity; None while it is looked through

    def wrong(self, node: yaml.Node, depth: int = 0) -> Iterator[tuple[int, str]]:
        """(line, mistake) for what means nothing, or something else than it says."""
        line = node.start_mark.line + 1
        if id(node) in self.sizes:
            if self.sizes[id(node)] is None:
                yield line, "an alias that contains itself; write its keys out"
            return
        if depth > DEEPEST:
            yield line, f"more than {DEEPEST} levels of keys; remove some"
            return
        self.sizes[id(node)] = None
        if isinstance(node, yaml.ScalarNode):
            yield from ((line, what) for what in _wrong_scalar(node))
        elif node.tag not in (f"{TAG}map", f"{TAG}seq"):
            yield line, f"tag {_tag(node)} has no meaning here; remove it"
        if isinstance(node, yaml.MappingNode):
            yield from _wrong_keys(node)
        for part in _parts(node):
            yield from self.wrong(part, depth + 1)
        self.sizes[id(node)] = 1 + sum(self.sizes.get(id(part)) or 0 for part in _parts(node))
        if not depth and self.sizes[id(node)] > LARGEST:
            yield line, f"aliases write out to more than {LARGEST:,} values; remove some"


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _wrong_keys(node: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    """Keys that are no text, or twice in one place; what `<<` brings may be overridden."""
    first = {}
    for key, _ in node.value:
        line, name = key.start_mark.line + 1, key.value
        if not isinstance(key, yaml.ScalarNode):
            yield line, "a key that is a list or a mapping; write a word"
        elif key.tag not in (f"{TAG}str", f"{TAG}merge"):
            what = READ_AS.get(key.tag.removeprefix(TAG), "no text")
            fix = "put quotes around it, or remove it"
            yield line, f"key {word(name)}: YAML reads it as {what}; {fix}"
        elif name in first:
            fix = "give one list to one of them" if key.tag == f"{TAG}merge" else "remove one"
            yield line, f"{word(name)}: written twice, first in line {first[name]}; {fix}"
        else:
            first[name] = line


def _wrong_scalar(node: yaml.ScalarNode) -> Iterator[str]:
    """What a plain value says to YAML, but not to people."""
    kind, said = node.tag.removeprefix(TAG), word(node.value)
    if kind in NUMBERS and not NUMBERS[kind].fullmatch(node.value):
        fix = "write a plain number, or put quotes around it"
        yield f"{said}: YAML reads it as {_number(node)}; {fix}"
    elif kind in NUMBERS:
        if len(node.value) > 100 or not math.isfinite(float(node.value)):
            yield f"{said}: too large; write a smaller number"
    elif kind == "bool" and node.value.lower() not in yaml.SafeLoader.bool_values:
        yield f"{said}: neither true nor false; remove its tag"
    elif kind == "timestamp":
        yield f"{said}: YAML reads it as a date; put quotes around it"
    elif kind not in ("str", "bool", "null"):
        yield f"{said}: tag {_tag(node)} has no meaning here; remove it, or put quotes around it"


def _tag(node: yaml.Node) -> str:
    return word(node.tag.replace(TAG, "!!"))


def _number(node: yaml.ScalarNode) -> str:
    """What YAML makes of a value that looks like a number to it."""
    constructor = yaml.SafeLoader("")
    integer = node.tag == f"{TAG}int"
    make = constructor.construct_yaml_int if integer else constructor.construct_yaml_float
    try:
        return shown(make(node))
    except (ValueError, IndexError, OverflowError):
        return "a number"


def _key(prefix: str, content: dict, e: dict) -> str:
    """The key of an error as the file has it, without pydantic's words for kinds of values."""
    parts, value = [prefix] if prefix else [], content
    for i, part in enumerate(e["loc"]):
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
    mantissa, _, exponent = given.lower().partition("e")
    try:
        number = repr(float(mantissa)) + (f"e{int(exponent)}" if exponent else "")
        finite = math.isfinite(float(number))
    except ValueError:
        finite = False
    if not finite:
        return f"{shown(given)} is not a number; write one"
    return f"YAML reads {shown(given)} as a string; write {number}"
