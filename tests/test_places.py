"""Places and processes: folders as people name them, homes, locks, and what a kill leaves."""

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

from vd import paths
from vd.store import parents
from vd.store.files import write_text
from vd.store.provenance import provenance
from vd.workflow import launch

WRITTEN = ("VD_RESULTS", "VD_FIGURES", "VD_CACHE")
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


def python(*words, **env):
    """What a Python program prints, and its exit status."""
    command, env = [sys.executable, *map(str, words)], os.environ | env
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=paths.ROOT, env=env, **both)
    return done.stdout, done.returncode


def gone(*processes, within):
    """Whether processes end within so many seconds; those that do not are killed."""
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


@pytest.mark.parametrize("variable", [*WRITTEN, "VD_CONFIGS", "VD_DATA_DIR"])
@pytest.mark.parametrize("value", ["file", "file/below", "~nobody-of-this-name/x"])
def test_a_place_that_cannot_be_is_one_line_before_any_work(place, monkeypatch, variable, value):
    (place / "file").write_text("")
    value = value if value.startswith("~") else str(place / value)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=rf"^{variable}={re.escape(value)}: [^\n]+$"):
        launch.check_places("s")


def test_places_that_are_not_there_yet_are_no_mistake(place, monkeypatch):
    for variable in WRITTEN:
        monkeypatch.setenv(variable, str(place / ODD / variable))
    launch.check_places("s")
    monkeypatch.setenv("VD_RESULTS", str(place / "{run}"))
    with pytest.raises(SystemExit, match=r"^VD_RESULTS=\S+: Snakemake takes braces"):
        launch.check_places("s")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_results_folder_that_is_read_only_is_one_line_and_such_a_cache_none(place, monkeypatch):
    (place / "figures" / "s").mkdir()
    (place / "figures" / "s").chmod(0o500)
    with pytest.raises(SystemExit, match=r"^VD_FIGURES=\S+ \S+/s cannot be written to; name"):
        launch.check_places("s")
    launch.check_places("t")
    monkeypatch.setenv("VD_CACHE", str(place / "figures" / "s"))
    launch.check_places("t")


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent/home"])
def test_a_home_that_cannot_be_written_to_is_replaced(home, tmp_path):
    code = "import vd, os; print(os.environ['HOME'])"
    right = tmp_path / f"value-drifts-{os.getuid()}"
    assert python("-c", code, HOME=home, TMPDIR=str(tmp_path)) == (f"{right}\n", 0)
    assert right.stat().st_mode & 0o777 == 0o700
    assert python("-c", code, HOME=str(tmp_path)) == (f"{tmp_path}\n", 0)


def test_files_are_utf_8_whatever_the_locale():
    code = """
from vd import paths
from vd.store import files
files.write_text("\\xfc", paths.table("s", "t"))
print(ascii(files.read_json(files.write_json({"a": "\\xfc"}, paths.table("s", "j")))))
"""
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert python("-c", code, **ascii_only) == ("{'a': '\\xfc'}\n", 0)
    assert paths.table("s", "t").read_bytes() == "ü".encode()


# reproduce.sh


@pytest.fixture
def checkout(tmp_path):
    """A checkout in an odd place, with a stub for Python; returns what runs its reproduce.sh."""
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
        done = subprocess.run(command, cwd=root, env=env | more, capture_output=True, text=True)
        return done, [json.loads(line) for line in calls.read_text().splitlines()]

    run.root = root
    return run


def test_set_up_in_an_odd_place_and_no_pip_the_second_time(checkout):
    done, calls = checkout("smoke", "--dry-run")
    assert done.returncode == 0, done.stderr
    pins = re.findall(r"^ {6}- ([\w.-]+==\S+)", (paths.ROOT / "environment.yml").read_text(), re.M)
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run = ["-m", "vd.workflow.launch", "smoke", "--dry-run"]
    root = str(checkout.root)
    assert len(pins) > 25 and calls == [
        [root, "-m", "venv", "--clear", f"{root}/.venv"],
        [root, *pip, "--constraint", "environment.lock", "--editable", ".", *pins],
        [root, *run],
    ]
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "PYTHONHOME"), "/nonexistent")
    done, calls = checkout("smoke", "--dry-run", **nowhere)
    assert done.returncode == 0 and calls == [[root, *run]], done.stderr


def test_lab_has_the_repository_as_root_and_hands_arguments_on(checkout):
    _, calls = checkout("lab", "--allow-root", "--no-browser", "--port=9999")
    root, c, _, *words = calls[-1]
    assert (root, c) == (str(checkout.root), "-c")
    first = "--LabApp.default_url=/lab/tree/notebooks/00_start.ipynb"
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
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"./reproduce.sh: {right}")


@pytest.mark.parametrize("name", ["a:b", "a\nb"])
def test_a_checkout_whose_path_no_environment_can_have_is_one_line(checkout, name):
    moved = checkout.root.rename(checkout.root.with_name(name))
    done, calls = checkout("smoke", root=moved)
    assert done.returncode == 2 and calls == []
    assert "move this checkout to a folder without ':'" in done.stderr


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
    command = [sys.executable, "-m", "vd.workflow.launch", *words, "-n"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip() == right


@pytest.mark.skipif(not (paths.ROOT / ".git").exists(), reason="needs a clone")
def test_a_clone_with_windows_line_ends_holds_the_same_bytes(tmp_path):
    def clone(name, ends):
        words = ["-c", f"core.autocrlf={ends}", "clone", "--quiet", paths.ROOT, tmp_path / name]
        subprocess.run(["git", *words], check=True)
        files = [file for file in (tmp_path / name).rglob("*") if file.is_file()]
        files = {file.relative_to(tmp_path / name): file for file in files}
        return {at: file.read_bytes() for at, file in files.items() if at.parts[0] != ".git"}

    unix, windows = clone("unix", "false"), clone("windows", "true")
    assert len(unix) > 200 and unix.keys() == windows.keys()
    assert [name for name in unix if unix[name] != windows[name]] == []
    text = subprocess.check_output(["./reproduce.sh", "--help"], cwd=tmp_path / "windows")
    assert b"--dry-run" in text


def test_the_commit_is_this_repositorys_and_none_of_one_around_it(tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    commit = ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m", "--allow-empty"]
    for words in (["init", "-q"], commit):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", provenance()["git_commit"])
    monkeypatch.setattr(paths, "ROOT", tmp_path / "copy")
    assert provenance()["git_commit"] is None


# one process at a time

HOLD = """
import sys, time
from vd.workflow import launch
launch.hold(sys.argv[1])
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def started(place):
    """Start Python programs and wait for their first line; they are killed at the end."""
    programs = []

    def start(code, *words, **env):
        command, env = [sys.executable, "-c", code, *map(str, words)], os.environ | env
        pipe = {"stdout": subprocess.PIPE, "text": True}
        program = subprocess.Popen(command, cwd=paths.ROOT, env=env, **pipe)
        programs.append(program)
        program.first = program.stdout.readline().strip()
        return program

    yield start
    for program in programs:
        program.kill()
        program.wait()


def test_who_has_a_study_is_one_line_and_the_lock_ends_with_him_however_he_ends(started, place):
    holder = started(HOLD, "s", 60)
    out, code = python("-c", HOLD, "s", 0)
    assert code == 1 and re.fullmatch(
        rf"study 's' is being run by process {holder.pid} on \S+ since \d\d:\d\d, "
        rf"in {place}/results/s; wait for it, or end it: kill -9 {holder.pid}\n",
        out,
    )
    holder.kill()
    holder.wait()
    assert python("-c", HOLD, "s", 0) == ("held\n", 0)


def test_another_study_can_be_run_meanwhile(started):
    started(HOLD, "s", 60)
    assert python("-c", HOLD, "t", 0) == ("held\n", 0)


def test_what_a_killed_run_left_is_removed_by_the_next(started, place):
    sleep = "import time; print('up', flush=True); time.sleep(60)"
    folder = (place / "results" / "s").resolve()
    mine = started(sleep, VD_WORKFLOW=str(folder))
    others = started(sleep, VD_WORKFLOW=f"{folder}2")
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    left = [folder / f"t.{dead.pid}.part.csv", place / "figures" / "s" / f"f.{dead.pid}.part"]
    kept = [folder / f"u.{os.getpid()}.part.csv", folder / "my.part.csv", folder / "t.csv"]
    for file in [*left, *kept]:
        write_text("x", file)
    assert python("-c", HOLD, "s", 0) == ("held\n", 0)
    assert mine.wait(5) == -signal.SIGKILL and others.poll() is None
    assert not any(file.exists() for file in left) and all(file.exists() for file in kept)


def test_processes_end_with_the_one_that_started_them(started):
    child = """
import os, subprocess, time
from vd.store import parents
parents.end_with(os.getppid())
print(os.getpid(), subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    program = started(parent)
    below = [psutil.Process(int(pid)) for pid in program.first.split()]
    time.sleep(3 * parents.POLL)
    assert all(process.is_running() for process in below)
    program.kill()
    program.wait()
    assert gone(*below, within=3)


@pytest.mark.parametrize(("how", "code"), [("interrupt", 130), ("end", 143), ("kill", -9)])
def test_a_study_that_is_stopped_stops_at_once_with_all_its_processes(place, how, code):
    shutil.copy(paths.NOTEBOOKS / "configs" / "smoke.yaml", place / "configs" / "s.yaml")
    command = [sys.executable, "-m", "vd.workflow.launch", "s"]
    running = place / "results" / "s" / ".running"
    with open(place / "log", "w") as log:
        program = subprocess.Popen(command, cwd=paths.ROOT, stdout=log, stderr=log, process_group=0)
    try:
        until = time.monotonic() + 120
        while not (running.exists() and "start" in running.read_text()):
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(3)  # kernels come up
        below = psutil.Process(program.pid).children(recursive=True)
        assert len(below) >= 3 and any("vd.workflow.job" in process.cmdline() for process in below)
        if how == "interrupt":
            os.killpg(program.pid, signal.SIGINT)
        else:
            program.send_signal(signal.SIGTERM if how == "end" else signal.SIGKILL)
        assert program.wait(10) == code and gone(*below, within=5)
    finally:
        program.kill()
        program.wait()
    said = (place / "log").read_text().splitlines()[-1]
    assert how != "interrupt" or said == "stopped; ./reproduce.sh s goes on from here"
    assert python("-c", HOLD, "s", 0) == ("held\n", 0)


# jobs


# as the Snakefile runs it, from a process of its own
JOB = """
import os, subprocess, sys
command = [sys.executable, "-m", "vd.workflow.job", str(os.getpid()), *sys.argv[1:]]
sys.exit(subprocess.call(command))
"""


def job(folder, *cells):
    """What a job on a notebook of these cells is told, and where the executed notebook is to be."""
    tagged = nbformat.v4.new_code_cell("STUDY = ''", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    cells = [tagged, *map(nbformat.v4.new_code_cell, cells)]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, folder / "0.ipynb")
    output = folder / ODD / "0.ipynb"
    made = [folder / "0.made", "settings=1 data=2 code=3"]
    return [*made, "papermill", folder / "0.ipynb", output, "-r", "STUDY", "2024"], output


def test_a_job_is_alone_whatever_started_it(tmp_path):
    cell = "import os; print(sorted(n for n in os.environ if 'RANK' in n or 'WORLD' in n))"
    cluster = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}
    words, output = job(tmp_path, cell)
    assert python("-c", JOB, *words, **cluster)[1] == 0
    assert '"[]\\n"' in output.read_text()


@pytest.mark.parametrize(("given", "seen"), [({}, "'0'"), ({"CUDA_VISIBLE_DEVICES": ""}, "''")])
def test_a_job_keeps_the_gpu_that_it_is_given_or_denied(tmp_path, monkeypatch, given, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cell = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']), repr(STUDY))"
    words, output = job(tmp_path, cell)
    assert python("-c", JOB, *words, **given)[1] == 0
    assert f"{seen} '2024'" in output.read_text()
    assert (tmp_path / "0.made").read_text() == "settings=1 data=2 code=3\n"
    assert [file.name for file in output.parent.iterdir()] == ["0.ipynb"]


def test_a_job_that_fails_says_why_and_leaves_its_notebook(tmp_path):
    words, output = job(tmp_path, "raise ValueError('pairs.jsonl: row 2: no text')")
    out, code = python("-c", JOB, *words)
    failed = output.with_suffix(".failed.ipynb")
    assert code == 1 and "0 2024: ValueError: pairs.jsonl: row 2: no text\n" in out
    assert out.splitlines()[-1] == f"the notebook, with all of the error: {failed}"
    assert failed.exists() and not output.exists() and not (tmp_path / "0.made").exists()
    words, _ = job(tmp_path, "1")
    assert python("-c", JOB, *words)[1] == 0 and output.exists() and not failed.exists()


def test_a_kernel_ends_with_its_job_and_the_job_with_snakemake(tmp_path):
    cell = "import os, time; print(os.getpid(), file=open('pid', 'w'), flush=True); time.sleep(60)"
    words, _ = job(tmp_path, cell)
    command = [sys.executable, "-c", JOB, *map(str, words), "--cwd", str(tmp_path)]
    program, pid = subprocess.Popen(command, cwd=paths.ROOT), tmp_path / "pid"
    until = time.monotonic() + 60
    while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < until:
        time.sleep(0.1)
    kernel = psutil.Process(int(pid.read_text()))
    run = kernel.parent()
    assert "vd.workflow.job" in run.cmdline() and run.ppid() == program.pid
    program.kill()
    program.wait()
    assert gone(kernel, run, within=3)
