"""Whatever stands in a study's file: it is a study with runs, or each mistake is a line with a fix.

Files are mangled as bytes, as text, and in what they say.
"""

import copy
import os
import re

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vd import paths
from vd.study.file import StudyError
from vd.study.load import load_study

CONFIGS = paths.NOTEBOOKS / "configs"
TEXTS = [(CONFIGS / f"{name}.yaml").read_bytes() for name in ("smoke", "pocket-real")]
TEXTS[1] = TEXTS[1].replace(b"results/pocket-real/", b"results/mangled/")  # its own probes
CONTENTS = [yaml.safe_load(text) for text in TEXTS]
FIX = "add|correct|give|lower|make|must|name|put|remove|rename|save|should|start|takes|use|write"
FIX = re.compile(rf"\b({FIX}|there are|filters are)\b")
Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
PIECES = [b"&a", b"*a ", b"<<: *sft\n", b"\t", b"- ", b"? ", b"!!", b"{", b"}", b"[", b"]", b"'"]
PIECES += [b": ", b"#", b"---\n", b"%", b"010", b"~", b"on: ", b".nan", b"1e-4", b"\x00", b"\xff"]
PIECES += ["\u2028é\ufeff🙂".encode(), b"2024-01-01", b"\r", b"|\n", b"\n  ", b"seeds: [0]\n"]
WORDS = ["all", "base", "data", "dpo", "embedded:minilm", "prism", "probes", "random:llama", "sft"]
WORDS += ["sft-alpaca", "sft-support", "sft-support/ppo-support", "steps", "value_gap", "x.jsonl"]
WORDS += ["results/x/y.jsonl", "seeds", "lora", "../x", "1e-4", "no", "", " ", "a\0b", "x" * 300]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 4, 8, 33, 220, 2**31, 2**32, 10**40]),
    st.floats(),
    st.dates(),
    st.binary(max_size=3),
    st.text(max_size=5),
    st.sampled_from(WORDS),
)
values = st.recursive(
    scalars,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(scalars, part, max_size=3),
    max_leaves=5,
)
quick = settings(
    max_examples=1200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file of the study `mangled`."""
    folder = tmp_path_factory.mktemp("mangled")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(os.environ, "VD_CONFIGS", str(folder))
        patched.setitem(os.environ, "VD_RESULTS", str(folder / "results"))
        yield folder / "mangled.yaml"


def tried(name, place):
    """Whether a study loads; if not, every line that is said names file, key or line, and fix."""
    try:
        study = load_study(name)
    except StudyError as error:
        for line in str(error).split("\n"):
            assert line.startswith(f"{place}") and line.isprintable() and len(line) < 2000, line
            said = line.removeprefix(f"{place}")
            assert re.match(r"(/.*)?: (.+: .|empty or not a mapping; |no such study; )", said), line
            assert FIX.search(said), line
        return False
    runs = study.runs()
    assert all(run.parent is None or run.parent in runs for run in runs.values())
    assert len(runs) >= 2 and study.model_dump_json() and f"{runs}"
    return True


@st.composite
def mangled_bytes(draw):
    """A file of the repository with pieces put in, cut out, overwritten, doubled or moved."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 60)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=4)))
        how = draw(st.sampled_from(["in", "out", "over", "double", "line", "cut"]))
        if how == "in":
            text = text[:start] + piece + text[start:]
        elif how == "out":
            text = text[:start] + text[end:]
        elif how == "over":
            text = text[:start] + piece + text[end:]
        elif how == "double":
            text = text[:end] + text[start:]
        elif how == "line":
            lines = text.split(b"\n")
            lines.insert(start % len(lines), lines[end % len(lines)])
            text = b"\n".join(lines)
        else:
            text = text[: max(start, 200)]
    return text


@st.composite
def mangled_content(draw):
    """What a file of the repository says, with parts replaced, deleted, renamed or doubled."""
    content = copy.deepcopy(draw(st.sampled_from(CONTENTS)))
    for _ in range(draw(st.integers(1, 3))):
        part = content
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], dict | list) and draw(st.booleans()):
                part = part[key]
                continue
            how = draw(st.sampled_from(["replace", "replace", "delete", "double"]))
            if how == "delete":
                del part[key]
            elif how == "replace":
                part[key] = draw(values)
            elif isinstance(part, list):
                part.append(part[key])
            else:
                part[draw(scalars)] = part[key]  # the same values a second time, as an alias
            break
    return content


@given(mangled_bytes())
@quick
def test_any_bytes_are_a_study_or_lines_that_say_what_to_write(file, text):
    file.write_bytes(text)
    tried("mangled", file)


@given(mangled_content())
@quick
def test_any_values_are_a_study_or_lines_that_say_what_to_write(file, content):
    file.write_text(yaml.dump(content, Dumper=Dumper), encoding="utf-8")
    tried("mangled", file)


@given(st.one_of(st.text(max_size=8), st.sampled_from(WORDS), st.integers()))
@quick
def test_any_name_is_a_study_or_a_line_that_says_what_to_write(file, name):
    assert not tried(name, file.parent)


def test_files_that_are_not_mangled_are_studies(file):
    for text in TEXTS:
        file.write_bytes(text)
        assert tried("mangled", file)
