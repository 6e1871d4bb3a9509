"""Places and processes: folders as people name them, homes that cannot be written to, locks and what a kill leaves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from test_workflow import ODD

from vd import launch, paths, record

SET_UP = (
    "reproduce.sh",
    "environment.yml",
    "environment.lock",
    "pyproject.toml",
    "notebooks/configs/smoke.yaml",
)
# stands in for every Python that reproduce.sh calls: notes its words and makes what `-m venv` makes
STUB = f"""#!{sys.executable} -I
import json, os, shutil, sys
words = sys.argv[1:]
if words[0] not in ("-c", "--version") or "jupyterlab" in words[-1] + words[1]:
    with open(os.environ["CALLS"], "a") as log:
        print(json.dumps([os.getcwd(), *words]), file=log)
if words[:2] == ["-m", "venv"]:
    os.makedirs(words[-1] + "/bin")
    shutil.copy(os.environ["STUB"], words[-1] + "/bin/python")
"""


def said(code, **env):
    """What a Python program prints, and its exit status."""
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, env=os.environ | env, check=False, **kept)
    return done.stdout, done.returncode


def gone(*processes, within):
    """Whether processes end, at the latest, within so many seconds; those that do not are killed."""
    _, alive = psutil.wait_procs([p for p in processes if p.is_running()], timeout=within)
    alive = [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    return not alive


# folders


def test_folders_are_meant_from_the_repository_and_from_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {
        "VD_RESULTS": paths.results,
        "VD_FIGURES": paths.figures,
        "VD_CACHE": lambda _: paths.cache() / "s",
    }
    for variable, place in places.items():
        for value, right in (
            ("a b/c/", paths.ROOT / "a b" / "c"),
            ("~/d", tmp_path / "d"),
            ("/e", Path("/e")),
        ):
            monkeypatch.setenv(variable, value)
            assert place("s") == right / "s"
    monkeypatch.setenv("VD_RESULTS", "")
    monkeypatch.setenv("VD_CACHE", "")
    assert paths.results("s") == paths.ROOT / "results" / "s"
    assert paths.cache() == tmp_path / ".cache" / "value-drifts"
    monkeypatch.setenv("VD_RESULTS", "~/r")
    assert paths.data_file("results/s/pairs.jsonl") == tmp_path / "r" / "s" / "pairs.jsonl"
    assert paths.data_file("~/pairs.jsonl") == tmp_path / "pairs.jsonl"


@pytest.mark.parametrize("variable", ["VD_RESULTS", "VD_FIGURES", "VD_CACHE", "VD_CONFIGS", "VD_DATA_DIR"])
@pytest.mark.parametrize("value", ["file", "file/below", "~nobody-of-this-name/x"])
def test_a_place_that_cannot_be_is_one_line_before_any_work(place, monkeypatch, variable, value):
    (place / "file").write_text("")
    value = value if value.startswith("~") else str(place / value)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=rf"^{variable}={re.escape(value)}: [^\n]+$"):
        launch.check_places()


def test_places_that_are_not_there_yet_are_no_mistake(place, monkeypatch):
    for variable in ("VD_RESULTS", "VD_FIGURES", "VD_CACHE"):
        monkeypatch.setenv(variable, str(place / ODD / variable))
    launch.check_places()
    monkeypatch.setenv("VD_RESULTS", str(place / "{run}"))
    with pytest.raises(SystemExit, match=r"^VD_RESULTS=\S+: Snakemake takes braces"):
        launch.check_places()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_results_folder_that_is_read_only_is_one_line_and_such_a_cache_none(place, monkeypatch):
    (place / "results").chmod(0o500)
    with pytest.raises(SystemExit, match=r"^VD_RESULTS=\S+ cannot be written to; name another folder$"):
        launch.check_places()
    monkeypatch.setenv("VD_CACHE", str(place / "results"))
    monkeypatch.delenv("VD_RESULTS")
    launch.check_places()


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent/home"])
def test_a_home_that_cannot_be_written_to_is_replaced(home, tmp_path):
    code = "import vd, os; print(os.environ['HOME'])"
    found, _ = said(code, HOME=home, TMPDIR=str(tmp_path))
    folder = Path(found.strip())
    assert folder == tmp_path / f"value-drifts-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    assert said(code, HOME=str(tmp_path))[0].strip() == str(tmp_path)


def test_files_are_utf_8_whatever_the_locale():
    code = "from vd import paths, record; record.write_text('\\xfc', paths.table('s', 't'))\n"
    code += "print(ascii(record.read_json(record.write_json({'a': '\\xfc'}, paths.table('s', 'j')))))"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert said(code, **ascii_only) == ("{'a': '\\xfc'}\n", 0)
    assert paths.table("s", "t").read_bytes() == "ü".encode()


# reproduce.sh


@pytest.fixture
def checkout(tmp_path):
    """A checkout in an odd place, where Python is a stub; returns what runs its reproduce.sh, and the stub's calls."""
    root = tmp_path / ODD / "vd"
    for name in SET_UP:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths.ROOT / name, root / name)
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, text in (
        ("python3.11", STUB),
        ("curl", "#!/bin/sh\nexit 1\n"),
        ("nvidia-smi", "#!/bin/sh\nexit 1\n"),
    ):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    calls = tmp_path / "calls"
    env = {
        "PATH": f"{stubs}:/usr/bin:/bin",
        "CALLS": str(calls),
        "STUB": str(stubs / "python3.11"),
        "VD_ENV": "venv",
    }

    def run(*words, root=root, **more):
        calls.write_text("")
        command = ["./reproduce.sh", *words]
        done = subprocess.run(command, cwd=root, env=env | more, capture_output=True, text=True, check=False)
        return done, [json.loads(line) for line in calls.read_text().splitlines()]

    run.root = root
    return run


def test_set_up_in_an_odd_place_and_no_pip_the_second_time(checkout):
    done, calls = checkout("smoke", "--dry-run")
    assert done.returncode == 0, done.stderr
    pins = re.findall(r"^ {6}- ([\w.-]+==\S+)", (paths.ROOT / "environment.yml").read_text(), re.M)
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run = ["-m", "vd.launch", "smoke", "--dry-run"]
    root = str(checkout.root)
    assert len(pins) > 25 and calls == [
        [root, "-m", "venv", "--clear", f"{root}/.venv"],
        [root, *pip, "--constraint", "environment.lock", "--editable", ".", *pins],
        [root, *run],
    ]
    done, calls = checkout("smoke", "--dry-run", HOME="/nonexistent", TMPDIR="/nonexistent", PYTHONHOME="/nonexistent")
    assert done.returncode == 0 and calls == [[root, *run]], done.stderr


def test_lab_has_the_repository_as_root_and_hands_arguments_on(checkout):
    _, calls = checkout("lab", "--allow-root", "--no-browser", "--port=9999")
    root, c, _, *words = calls[-1]
    assert (root, c) == (str(checkout.root), "-c")
    first = "--LabApp.default_url=/lab/tree/notebooks/00_data.ipynb"
    assert words == [
        f"--ServerApp.root_dir={root}",
        first,
        "--allow-root",
        "--no-browser",
        "--port=9999",
    ]


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["tset"], "no study and no command 'tset'; studies are smoke"),
        (["../evil"], "write the name of the study alone, such as evil"),
        (["notebooks/configs/smoke.yaml"], "write the name of the study alone, such as smoke"),
        (["a;touch pwned;true"], "no study and no command 'a;touch pwned;true'"),
    ],
)
def test_mistakes_are_one_line_before_set_up(checkout, words, right):
    done, calls = checkout(*words)
    assert done.returncode == 2 and calls == [] and not (checkout.root / ".venv").exists()
    assert done.stdout == "" and done.stderr.count("\n") == 1 and f"./reproduce.sh: {right}" in done.stderr


@pytest.mark.parametrize("name", ["a:b", "a\nb"])
def test_a_checkout_whose_path_no_environment_can_have_is_one_line(checkout, name):
    moved = checkout.root.rename(checkout.root.with_name(name))
    done, calls = checkout("smoke", root=moved)
    assert done.returncode == 2 and calls == [] and "move this checkout to a folder without ':'" in done.stderr


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["smoke", "pocket"], "smoke pocket: one study at a time"),
        (["smoke", "--cores", "2", "pocket"], "smoke pocket: one study at a time"),
        (
            ["smoke", "--bogus"],
            "unrecognized arguments: --bogus; ./reproduce.sh --help lists options",
        ),
    ],
)
def test_wrong_options_are_one_line(words, right):
    done = subprocess.run(
        [sys.executable, "-m", "vd.launch", *words, "-n"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.strip() == right


@pytest.mark.skipif(not (paths.ROOT / ".git").exists(), reason="needs a clone")
def test_a_clone_with_windows_line_ends_holds_the_same_bytes(tmp_path):
    for name, ends in (("unix", "false"), ("windows", "true")):
        command = [
            "git",
            "-c",
            f"core.autocrlf={ends}",
            "clone",
            "--quiet",
            str(paths.ROOT),
            str(tmp_path / name),
        ]
        subprocess.run(command, check=True)
    files = [file for file in (tmp_path / "unix").rglob("*") if file.is_file() and ".git" not in file.parts]
    other = [tmp_path / "windows" / file.relative_to(tmp_path / "unix") for file in files]
    assert len(files) > 200
    assert [a.name for a, b in zip(files, other, strict=True) if a.read_bytes() != b.read_bytes()] == []
    done = subprocess.run(
        ["./reproduce.sh", "--help"],
        cwd=tmp_path / "windows",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--dry-run" in done.stdout


# one process at a time

HOLD = "import sys, time; from vd import launch; launch.hold('s'); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def started(place):
    """Start Python programs and wait for their first line; whatever is left of them is killed at the end."""
    programs = []

    def start(code, *words, **env):
        command = [sys.executable, "-c", code, *map(str, words)]
        program = subprocess.Popen(command, cwd=paths.ROOT, env=os.environ | env, stdout=subprocess.PIPE, text=True)
        programs.append(program)
        program.first = program.stdout.readline().strip()
        return program

    yield start
    for program in programs:
        program.kill()
        program.wait()


def test_who_has_a_study_is_one_line_and_its_end_however_it_ends_is_the_locks(started, place):
    holder = started(HOLD)
    out, code = said(HOLD.replace("60", "0"))
    assert code == 1 and re.fullmatch(
        rf"study 's' is being run by process {holder.pid} on \S+ since \d\d:\d\d, in {place}/results/s; "
        rf"wait for it, or end it: kill -9 {holder.pid}\n",
        out,
    )
    holder.kill()
    holder.wait()
    assert said(HOLD.replace("60", "0")) == ("held\n", 0)


def test_another_study_can_be_run_meanwhile(started):
    started(HOLD)
    assert said(HOLD.replace("60", "0").replace("'s'", "'t'")) == ("held\n", 0)


def test_what_a_killed_run_left_is_removed_by_the_next(started, place):
    sleep = "import time; print('up', flush=True); time.sleep(60)"
    folder = (place / "results" / "s").resolve()
    mine, others = (
        started(sleep, VD_WORKFLOW=str(folder)),
        started(sleep, VD_WORKFLOW=str(folder) + "2"),
    )
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    left = [folder / f"t.{dead.pid}.part.csv", place / "figures" / "s" / f"f.{dead.pid}.part"]
    kept = [folder / f"u.{os.getpid()}.part.csv", folder / "my.part.csv", folder / "t.csv"]
    for file in [*left, *kept]:
        record.write_text("x", file)
    assert said(HOLD.replace("60", "0")) == ("held\n", 0)
    assert mine.wait(5) == -signal.SIGKILL and others.poll() is None
    assert not any(file.exists() for file in left) and all(file.exists() for file in kept)


def test_processes_end_with_the_one_that_started_them(started):
    child = "import os, subprocess, sys, time; from vd import launch; launch.end_with(os.getppid());"
    child += "print(os.getpid(), subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    program = started(parent)
    below = [psutil.Process(int(pid)) for pid in program.first.split()]
    time.sleep(3 * launch.POLL)
    assert all(process.is_running() for process in below)
    program.kill()
    program.wait()
    assert gone(*below, within=3)


# jobs


def notebook(folder, *cells):
    """A notebook with the tagged parameter STUDY and these cells."""
    parameters = nbformat.v4.new_code_cell("STUDY = ''", metadata={"tags": ["parameters"]})
    python = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    book = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)], metadata=python)
    nbformat.write(book, folder / "0.ipynb")
    return folder / "0.ipynb"


def job(folder, *cells, **env):
    """Run a job as the Snakefile does; returns what it prints, its exit status and the executed notebook."""
    words = [
        os.getpid(),
        folder / "0.made",
        "settings=1 data=2 code=3",
        "papermill",
        notebook(folder, *cells),
    ]
    output = folder / ODD / "0.ipynb"
    command = [sys.executable, "-m", "vd.job", *map(str, words), str(output), "-r", "STUDY", "2024"]
    done = subprocess.run(
        command,
        cwd=paths.ROOT,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout, done.returncode, output


@pytest.mark.parametrize(("given", "seen"), [({}, "'0'"), ({"CUDA_VISIBLE_DEVICES": ""}, "''")])
def test_a_job_keeps_the_gpu_that_it_is_given_or_denied(tmp_path, monkeypatch, given, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    out, code, output = job(
        tmp_path, "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']), repr(STUDY))", **given
    )
    assert (out, code) == ("", 0)
    assert f"{seen} '2024'" in output.read_text()
    assert (tmp_path / "0.made").read_text() == "settings=1 data=2 code=3\n"
    assert [file.name for file in output.parent.iterdir()] == ["0.ipynb"]


def test_a_job_that_fails_says_why_and_leaves_its_notebook(tmp_path):
    out, code, output = job(tmp_path, "raise ValueError('pairs.jsonl: row 2: no text; add it')")
    failed = output.with_suffix(".failed.ipynb")
    assert code == 1 and "0 2024: ValueError: pairs.jsonl: row 2: no text; add it\n" in out
    assert out.splitlines()[-1] == f"the notebook, with all of the error: {failed}"
    assert failed.exists() and not output.exists() and not (tmp_path / "0.made").exists()
    assert job(tmp_path, "1")[1] == 0 and not failed.exists()


def test_a_kernel_ends_with_its_job_and_the_job_with_snakemake(tmp_path, started):
    code = "import sys, subprocess; subprocess.run([sys.executable, '-m', 'vd.job', str(__import__('os').getpid()),"
    code += " *sys.argv[1:]])"
    book = notebook(
        tmp_path,
        "import os, time; print(os.getpid(), file=open('pids', 'w'), flush=True); time.sleep(60)",
    )
    words = [
        tmp_path / "0.made",
        "settings=1",
        "papermill",
        book,
        tmp_path / "out.ipynb",
        "--cwd",
        tmp_path,
    ]
    command = [sys.executable, "-c", code, *map(str, words), "-r", "STUDY", "s"]
    program = subprocess.Popen(command, cwd=paths.ROOT)
    for _ in range(300):
        time.sleep(0.1)
        if (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().strip():
            break
    kernel = psutil.Process(int((tmp_path / "pids").read_text()))
    run = kernel.parent()
    assert "vd.job" in run.cmdline() and run.ppid() == program.pid
    program.kill()
    program.wait()
    assert gone(kernel, run, within=3)
