"""How the file of a study is read: one meaning, or an error with its line.

YAML takes much that nobody means: a key that is written twice replaces the first, 010 is eight, and
`no` is a truth value.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from vd import paths
from vd.study.file import StudyError, shown, study_error, word

LARGEST = 100_000  # values in a study, with aliases written out
DEEPEST = 20  # levels of keys
TAG = "tag:yaml.org,2002:"
READ_AS = {"bool": "true or false", "null": "nothing", "timestamp": "a date"}
READ_AS |= {"int": "a number", "float": "a number"}
NUMBERS = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"),
}
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


def read(path: Path) -> dict:
    """Keys and values of a study's file; raises StudyError with all lines of more or less than one
    meaning."""
    text = _text(path)
    try:
        # Nodes are looked through before values are made of them: values have no lines, a key that
        # was written twice is one by then, and aliases may have unfolded to millions.
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


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as failure:
        why = f"{failure.strerror}; a study is a file that can be read"
        raise StudyError(f"{path}: {why}") from None
    # before decoding, which would blame a byte and not the encoding
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StudyError(f"{path}: line 1: this is UTF-16; save the file as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = content[: failure.start].count(b"\n") + 1
        why = f"byte {content[failure.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise StudyError(f"{path}: line {line}: {why}") from None
    # looked for here, since YAML's own error about it names no line
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
        # An alias is the very node that it names. Each node is looked through once, or nested
        # aliases would take exponential time.
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
        # counted at each alias, as if written out, which is what making values of it would cost
        self.sizes[id(node)] = 1 + sum(self.sizes.get(id(part)) or 0 for part in _parts(node))
        if not depth and self.sizes[id(node)] > LARGEST:
            yield line, f"aliases write out to more than {LARGEST:,} values; remove some"


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _wrong_keys(node: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    """Keys that are no text, or twice in one place; what `<<` brings may be overridden.

    A map from whole numbers to single values is one by step, as of `checkpoints`.
    """
    first = {}
    by_step = all(_is_step(key) and isinstance(value, yaml.ScalarNode) for key, value in node.value)
    kinds = {f"{TAG}str", f"{TAG}merge", *([f"{TAG}int"] if by_step else [])}
    for key, _ in node.value:
        line, name = key.start_mark.line + 1, key.value
        if not isinstance(key, yaml.ScalarNode):
            yield line, "a key that is a list or a mapping; write a word"
        elif key.tag not in kinds:
            what = READ_AS.get(key.tag.removeprefix(TAG), "no text")
            fix = "put quotes around it, or remove it"
            yield line, f"key {word(name)}: YAML reads it as {what}; {fix}"
        elif name in first:
            fix = "give one list to one of them" if key.tag == f"{TAG}merge" else "remove one"
            yield line, f"{word(name)}: written twice, first in line {first[name]}; {fix}"
        else:
            first[name] = line


def _is_step(key: yaml.Node) -> bool:
    return key.tag == f"{TAG}int" and bool(NUMBERS["int"].fullmatch(key.value))


def _wrong_scalar(node: yaml.ScalarNode) -> Iterator[str]:
    """What a plain value says to YAML, but not to people."""
    kind, said = node.tag.removeprefix(TAG), word(node.value)
    if kind in NUMBERS and not NUMBERS[kind].fullmatch(node.value):
        fix = "write a plain number, or put quotes around it"
        yield f"{said}: YAML reads it as {_number(node)}; {fix}"
    elif kind in NUMBERS:
        if len(node.value) > 100 or not math.isfinite(float(node.value)):
            yield f"{said}: too large; write a smaller number"
    # only by a tag, as in `!!bool perhaps`, which would raise KeyError later
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
