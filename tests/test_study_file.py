"""How a study's file may be written and named: each mistake is one line with file, line and fix.

Files are smoke's with one mistake each; test_mangled_studies.py tries what nobody thought of.
"""

import os
import re
import subprocess
import sys

import pytest

from vd import paths
from vd.study.file import StudyError
from vd.study.load import load_study

TEXT = (paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text()
DPO = "preference.dpo-support"


def error_of_text(place, text, name="changed"):
    """The one line that is said of a study file with this text or these bytes, without its path."""
    file = place / "configs" / f"{name}.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError) as caught:
        load_study(name)
    said = str(caught.value)
    assert said.startswith(f"{file}: ") and "\n" not in said
    return said.removeprefix(f"{file}: ")


def test_a_run_that_is_written_twice_is_an_error_with_both_lines(place):
    again = "  dpo-support:\n    <<: *pairs\n    method: dpo\n    beta: 0.5\n"
    said = error_of_text(place, TEXT.replace("  simpo-support:\n", again + "  simpo-support:\n"))
    first, second = TEXT.index("  dpo-support:"), TEXT.index("  simpo-support:")
    first, second = (TEXT[:place].count("\n") + 1 for place in (first, second))
    assert said == f"line {second}: dpo-support: written twice, first in line {first}; remove one"
    first = TEXT[: TEXT.index("\nseeds:")].count("\n") + 2
    said = error_of_text(place, TEXT + "\nseeds: [1]\n")
    assert f": seeds: written twice, first in line {first}; remove one" in said
    for line in ("    beta: 0.1\n", "    <<: *sft\n"):
        key = line.split(":")[0].strip()
        assert f"{key}: written twice" in error_of_text(place, TEXT.replace(line, line * 2))


def test_what_a_merge_brings_may_be_overridden_and_merges_may_overlap(place):
    text = TEXT.replace("<<: *sft\n", "<<: [*sft, *sft]\n    steps: 6\n")
    (place / "configs" / "changed.yaml").write_text(text)
    run = load_study("changed").run("tiny-llama/sft-support/seed-0")
    assert (run.settings.steps, run.settings.save_every, run.settings.data) == (6, 2, "sft_support")


@pytest.mark.parametrize("key", ["5", "on", "~", "2024", "1.5", "2024-01-01", "=", "[a, b]"])
def test_keys_are_text_at_any_level(place, key):
    for text in (f"{TEXT}\n? {key}\n: x\n", TEXT.replace("  tiny-llama:", f"  ? {key}\n  :")):
        said = error_of_text(place, text)
        assert re.fullmatch(
            r"line \d+: (key .*: YAML reads it as .*; put quotes .*|a key that is .*; write .*)",
            said,
        )
    quoted = TEXT.replace("tiny-llama:", "'2024':")
    (place / "configs" / "quoted.yaml").write_text(quoted)
    assert "2024/base/seed-0" in load_study("quoted").runs()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("010", "010: YAML reads it as 8; write a plain number, or put quotes around it"),
        ("1:30", "1:30: YAML reads it as 90"),
        ("1_000", "1_000: YAML reads it as 1000"),
        ("0x10", "0x10: YAML reads it as 16"),
        ("0b11", "0b11: YAML reads it as 3"),
        ("0x_", "0x_: YAML reads it as a number"),
        (".inf", ".inf: YAML reads it as inf"),
        ("-.INF", "-.INF: YAML reads it as -inf"),
        (".NaN", ".NaN: YAML reads it as nan"),
        ("1.0e+400", "1.0e+400: too large; write a smaller number"),
        ("9" * 5000, "too large; write a smaller number"),
        ("2024-13-45", "2024-13-45: YAML reads it as a date; put quotes around it"),
        ("!!int abc", "abc: YAML reads it as a number"),
        ("!!bool perhaps", "perhaps: neither true nor false; remove its tag"),
        ("!!python/object:os.system x", "tag !!python/object:os.system has no meaning here"),
        ("!!binary aGk=", "tag !!binary has no meaning here"),
        ("<<", "tag !!merge has no meaning here"),
    ],
)
def test_a_value_means_what_it_says(place, written, said):
    line = TEXT[: TEXT.index("beta: 0.1")].count("\n") + 1
    found = error_of_text(place, TEXT.replace("beta: 0.1", f"beta: {written}"))
    assert found.startswith(f"line {line}: ") and said in found


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("beta: 1e-4", f"{DPO}.beta: YAML reads '1e-4' as a string; write 1.0e-4"),
        ("beta: '.nan'", f"{DPO}.beta: '.nan' is not a number; write one"),
        ("beta: 'nan'", f"{DPO}.beta: 'nan' is not a number; write one"),
        ("beta: 0,1", f"{DPO}.beta: '0,1' is not a number; write one"),
        ("beta:", f"{DPO}.beta: empty; write a value, or remove the key"),
        ("swap_labels: 'no'", f"{DPO}.swap_labels: write true or false, without quotes (got 'no')"),
        (
            "data: no",
            f"{DPO}.data: YAML reads yes, no, on and off as true and false; put quotes around it",
        ),
        ("data: 12", f"{DPO}.data: YAML reads 12 as a number; put quotes around it"),
        ("\u00a0beta: 0.1", f"{DPO}.'\\xa0beta': unknown key; remove it or correct its spelling"),
    ],
)
def test_a_value_of_another_kind_says_what_to_write(place, written, said):
    assert error_of_text(place, TEXT.replace("beta: 0.1", written)) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty or not a mapping; start from .*smoke.yaml"),
        (b"# nothing\n", "empty or not a mapping; start from .*smoke.yaml"),
        (b"- seeds\n", "empty or not a mapping; start from .*smoke.yaml"),
        (b"seeds: [0]\n# caf\xe9\n", "line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (TEXT.encode("utf-16"), "line 1: this is UTF-16; save the file as UTF-8"),
        (
            TEXT.encode("utf-16-le"),
            r"line 1: control character U\+0000; remove it, and save as UTF-8",
        ),
        (b"a: 1\nb: \x07\n", r"line 2: control character U\+0007; remove it, .*"),
        (b"a:\n\tb: 1\n", "line 2: not valid YAML: .*; use spaces in place of tabs"),
        (b"a: 1\n---\nb: 2\n", "line 2: not valid YAML: .*single document.*; correct it, .*"),
        (b"a: *nobody\n", "line 1: not valid YAML: .*undefined alias.*; correct it, .*"),
        (b"a: &x 1\nb: &x 2\n", "line 2: not valid YAML: .*duplicate anchor.*; correct it, .*"),
        (b"a:\n  <<: 5\n", "line 2: not valid YAML: .*merging.*; correct it, .*"),
        (b"a: &a [*a]\n", "line 1: an alias that contains itself; write its keys out"),
        (b"a: &a\n  <<: *a\n", "line 1: an alias that contains itself; write its keys out"),
        (b"a: " + b"[" * 3000, r"line \d: .*"),
        (b"a: " + b"{a: " * 300 + b"}" * 300, "line 1: more than 20 levels of keys; remove some"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_study_says_where(place, text, said):
    assert re.fullmatch(said, error_of_text(place, text))


@pytest.mark.parametrize("link", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_that_unfold_to_millions_of_values_are_refused_at_once(place, link):
    lines = ["a: &a {x: 1}"]
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True):
        lines.append(f"{name}: &{name} " + link.format(", ".join([f"*{before}"] * 9)))
    said = error_of_text(place, "\n".join(lines))
    assert said == "line 1: aliases write out to more than 100,000 values; remove some"


def test_a_byte_order_mark_and_windows_line_ends_are_read(place):
    for name, text in (
        ("plain", TEXT),
        ("mark", "\ufeff" + TEXT),
        ("ends", TEXT.replace("\n", "\r\n")),
    ):
        (place / "configs" / f"{name}.yaml").write_bytes(text.encode())
    plain, *others = (load_study(name) for name in ("plain", "mark", "ends"))
    assert len(plain.runs()) == 10
    for other in others:
        assert other.model_dump() == plain.model_dump() | {"name": other.name}


@pytest.mark.parametrize(
    "name",
    [
        "a;touch pwned;true",
        "../evil",
        "R&D",
        "my study",
        "étude",
        "-x",
        ".x",
        "x.",
        "x\n",
        "",
        "x" * 101,
        "$HOME",
    ],
)
def test_a_studys_name_is_checked_before_anything_is_read(place, name):
    if name and "/" not in name:
        (place / "configs" / f"{name}.yaml").write_text(TEXT)
    fix = r"not a study name; use up to 100 letters, .*; rename the study's file"
    with pytest.raises(StudyError, match=fix):
        load_study(name)


def test_no_command_in_a_studys_name_is_run(place):
    name = "a;touch pwned;true"
    (place / "configs" / f"{name}.yaml").write_text(TEXT)
    env = os.environ | {"PYTHONPATH": str(paths.ROOT), "VD_STUDY": name}
    snakefile = str(paths.NOTEBOOKS / "Snakefile")
    workflow = ["snakemake", "--snakefile", snakefile, "--cores", "1", "--dry-run"]
    for command in ([sys.executable, "-m", "vd", name], workflow):
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
        assert done.returncode == 1 and "not a study name" in done.stdout + done.stderr
    assert not (place / "pwned").exists()


@pytest.mark.parametrize("name", ["lab", "test", "LOCK", "con", "nul.1", "drift.csv", "seed-1"])
def test_a_study_has_no_name_of_something_else(place, name):
    (place / "configs" / f"{name}.yaml").write_text(TEXT)
    with pytest.raises(StudyError, match="not a study name, since something else is called so"):
        load_study(name)


def test_a_study_may_be_called_2024_although_that_is_a_number_to_snakemake(place):
    (place / "configs" / "2024.yaml").write_text(TEXT)
    assert load_study(2024).name == "2024" and load_study("2024").runs() == load_study(2024).runs()


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        ("mine.yml", "mine", "mine.yml: no study is called 'mine'; rename it to mine.yaml"),
        ("mine.YAML", "mine", "mine.YAML: no study is called 'mine'; rename it to mine.yaml"),
        ("Mine.yaml", "mine", "Mine.yaml: no study is called 'mine'; rename it to mine.yaml"),
        ("mine.yaml", "mine.yaml", "a study is named without folder and ending; write mine"),
        ("mine.yaml", "notebooks/configs/mine.yaml", "without folder and ending; write mine"),
        ("mine.yaml", "yours", "yours.yaml: no such study; there are mine"),
    ],
)
def test_a_study_that_is_not_found_says_what_there_is(place, file, name, said):
    (place / "configs" / file).write_text(TEXT)
    with pytest.raises(StudyError, match=re.escape(said)):
        load_study(name)


def test_a_folder_in_the_place_of_a_study_or_no_folder_of_studies(place, monkeypatch):
    (place / "configs" / "mine.yaml").mkdir()
    with pytest.raises(StudyError, match=r"mine\.yaml: Is a directory; a study is a file"):
        load_study("mine")
    monkeypatch.setenv("VD_CONFIGS", str(place / "nowhere"))
    with pytest.raises(StudyError, match="nowhere: No such file or directory; correct VD_CONFIGS"):
        load_study("mine")


def vd(*words):
    command = [sys.executable, "-m", "vd", *words]
    return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["smoke", "--sheet", "0"], 2),
        (["smoke", "--sheet", "-5"], 2),
        (["smoke", "--sheet", "many"], 2),
        (["smoke", "--judge", "--where"], 2),
        (["smoke", "--dry-run"], 2),
        (["smoke", "other"], 2),
        ([], 2),
        (["nothing"], 1),
    ],
)
def test_a_wrong_option_is_one_line(words, status):
    done = vd(*words)
    assert done.returncode == status and done.stderr.count("\n") == 1 and not done.stdout


def test_loading_a_study_loads_nothing_heavy():
    names = sorted(file.stem for file in (paths.NOTEBOOKS / "configs").glob("*.yaml"))
    code = "import sys\nfrom vd.study.load import load_study\n"
    code += f"[load_study(name) for name in {names}]\n"
    code += "print(*sorted({'torch', 'transformers', 'trl', 'datasets'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "" and len(names) == 18
