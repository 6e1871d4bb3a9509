"""The workflow on the study smoke.

It runs, leaves what it promises, and re-runs exactly what a change touches.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pandas as pd
import pytest
import yaml

from vd import paths
from vd.drift import measures
from vd.evaluations import asked
from vd.figures import explorer
from vd.probing import sampling
from vd.store import recorded
from vd.store.files import read_json, replace, write_json, write_text
from vd.study.load import load_study
from vd.workflow import launch, make, notebooks, plan, rebuild

CAPTURED = {"capture_output": True, "text": True}
ODD = "some where & 'more' \"x\" $HOME `id` ;%s ü"  # a place as people name them
NONE = set()
# Notes which machines a process looks for; and, of a kernel,
# in the folder of its log which of our corpora each notebook opens; a study's check looks at
# the columns of all of them, which changes no number
LOG = """
import os, socket, sys
here = {"", "localhost", "127.0.0.1", "::1", socket.gethostname()}
def network(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = args[1] if event == "socket.connect" else args
        host = place[0] if isinstance(place, tuple) else ""  # of a socket in the file system
        if (host.decode() if isinstance(host, bytes) else host or "") not in here:
            with open(os.environ["OPENED"] + ".network", "a") as file:
                print(sys.orig_argv, host, file=file)
if "OPENED" in os.environ:
    sys.addaudithook(network)
def checked(frame):
    while frame and os.path.basename(frame.f_code.co_filename) != "inputs.py":
        frame = frame.f_back
    return frame
if "ipykernel_launcher" in sys.orig_argv:
    import psutil
    job = psutil.Process(os.getppid()).cmdline()
    name = os.path.basename(job[job.index("papermill") + 1]) if "papermill" in job else "none"
    def log(event, args):
        if event == "open" and f"vd{os.sep}corpora" in os.path.dirname(str(args[0])):
            if checked(sys._getframe(1)):
                return
            with open(os.path.join(os.environ["OPENED"], name), "a") as file:
                print(os.path.basename(args[0]), file=file)
    sys.addaudithook(log)
"""

STANCES = [
    "run",
    "step",
    "prompt_id",
    "topic",
    "sample",
    "p_support",
    "p_neutral",
    "p_oppose",
    "label",
    "refusal",
    "neutral_kind",
    "judge",
    "target",
]


def snakemake(*words, env=None, check=True, root=paths.ROOT):
    """Run the workflow from the repository's root; returns its whole output."""
    done = subprocess.run(
        ["snakemake", "--snakefile", "notebooks/Snakefile", "--cores", "2", *words],
        cwd=root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | (env or {}),
    )
    assert not check or done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Folders of the finished study smoke, and the environment that finds them; below
    VD_TESTED_SMOKE where that is set, for whom it may concern afterwards.
    """
    kept = os.environ.get("VD_TESTED_SMOKE")
    folder = (Path(kept) if kept else tmp_path_factory.mktemp("workflow")) / ODD
    (folder / "configs").mkdir(parents=True)
    shutil.copy(paths.NOTEBOOKS / "configs" / "smoke.yaml", folder / "configs" / "smoke.yaml")
    env = {
        f"VD_{name.upper()}": str(folder / name) for name in ("configs", "results", "figures")
    } | {"VD_STUDY": "smoke"}
    for name, text in (("sitecustomize.py", LOG), ("opened/none", "")):
        write_text(text, folder.parent / name)
    log = {"PYTHONPATH": f"{folder.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    start = time.monotonic()
    snakemake("--quiet", "all", env=env | log | {"OPENED": str(folder.parent / "opened")})
    print(f"the study smoke took {time.monotonic() - start:.0f} s")
    return folder, env


@pytest.fixture
def changed(smoke):
    """Change the finished study for one test; returns the jobs that would run, by rule and run."""
    folder, env = smoke
    file = folder / "configs" / "smoke.yaml"
    before = file.read_text()

    def jobs(change, **where):
        content = yaml.safe_load(before)
        change(content)
        file.write_text(yaml.safe_dump(content))
        return asked_for(snakemake("--dry-run", "--printshellcmds", env=env, **where))

    yield jobs
    file.write_text(before)


def asked_for(output):
    """Jobs that Snakemake's output asks for: notebook and run."""
    command = r"papermill notebooks/(\w+)\.ipynb .*-r STUDY smoke( -r (?:RUN|RECIPE) (\S+))?"
    return {f"{match[1]} {match[3] or ''}" for match in re.finditer(command, output)}


def of_run(run, *notebooks):
    """Jobs that follow a run's training: it is asked and judged, and may be evaluated."""
    evaluated = ["04_evaluate"] if run in load_study("smoke").evaluated() else []
    return {f"{name} {run}" for name in (*notebooks, "03_probe", "04_judge", *evaluated)}


SUMMED = {"05_drift ", "06_figures ", "07_tables ", "08_findings "}


def unwanted(folder, names):
    """What a copy of the repository does without: of the folder itself, results and the like."""
    here = {"results", "figures", "tests"} if paths.Path(folder) == paths.ROOT else set()
    return [n for n in names if n in here or n.startswith(".") or n == "__pycache__"]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A second checkout, with its own code and without notes of Snakemake."""
    copy = tmp_path_factory.mktemp("second") / ODD
    shutil.copytree(paths.ROOT, copy, ignore=unwanted)
    return copy


def test_a_finished_study_starts_nothing_and_returns_in_seconds(smoke):
    start = time.monotonic()
    assert "Nothing to be done" in snakemake(env=smoke[1])
    assert time.monotonic() - start < 30  # of which most is to load what a study may need


def test_one_learning_rate_reruns_that_run_and_what_depends_on_it(changed):
    def change(study):
        study["preference"]["simpo-support"]["learning_rate"] = 2.0e-3

    run = "tiny-llama/sft-support/simpo-support/seed-0"
    assert changed(change) == SUMMED | of_run(run, "02_preference")


def test_equal_results_of_another_checkout_are_taken_over(smoke, second):
    assert "Nothing to be done" in snakemake(env=smoke[1], root=second)
    assert "Nothing to be done" in snakemake(env=smoke[1])


def test_other_results_of_another_checkout_are_made_again(changed, second):
    def change(study):
        study["preference"]["dpo-support"]["learning_rate"] = 2.0e-3

    assert changed(change, root=second) == changed(change) != set()


def test_another_checkouts_code_makes_its_results_other_ones(smoke, second):
    file = second / "vd" / "methods" / "simpo.py"
    before = file.read_text()
    file.write_text(before.replace("def build(run: Run):", "def build(run: Run, two=2):"))
    found = asked_for(snakemake("--dry-run", "--printshellcmds", env=smoke[1], root=second))
    file.write_text(before)
    run = "tiny-llama/sft-support/simpo-support/seed-0"
    assert found == SUMMED | of_run(run, "02_preference")


def test_what_another_checkout_has_made_meanwhile_is_made_again(smoke):
    """Snakemake's own notes in this checkout say that all is well."""
    folder, env = smoke
    run = "tiny-llama/sft-support/simpo-support/seed-0"
    file = folder / "results" / "smoke" / run / "notebooks" / "02_preference.made"
    before, times = file.read_text(), (file.stat().st_atime, file.stat().st_mtime)
    file.write_text(before.replace('"run.seed": 0', '"run.seed": 1'))
    os.utime(file, times)
    output = snakemake("--dry-run", "--printshellcmds", env=env)
    file.write_text(before)
    os.utime(file, times)
    assert f"again, with other settings run.seed: 02_preference {run}" in output
    of_runs = {job for job in asked_for(output) if job.split()[1:]}
    assert of_runs == of_run(run, "02_preference")


def test_only_what_a_file_needs_is_made_for_it(changed, smoke):
    def change(study):
        for entry in study["preference"].values():
            entry["learning_rate"] = 2.0e-3

    assert len(changed(change)) > 10
    run = "tiny-llama/sft-support/dpo-support/seed-0"
    target = os.path.relpath(smoke[0] / "results" / "smoke" / run / "responses.parquet", paths.ROOT)
    output = snakemake("--dry-run", "--printshellcmds", "--", target, env=smoke[1])
    assert asked_for(output) == {f"02_preference {run}", f"03_probe {run}"}


def test_a_record_that_is_missing_is_a_job_that_is_not_finished(smoke):
    folder, env = smoke
    run = "tiny-llama/sft-support/simpo-support/seed-0"
    file = folder / "results" / "smoke" / run / "notebooks" / "03_probe.made"
    file.rename(folder / "away")
    output = snakemake("--dry-run", "--printshellcmds", env=env)
    (folder / "away").rename(file)
    of_runs = {job for job in asked_for(output) if job.split()[1:]}
    assert of_runs == of_run(run)


def test_a_parent_takes_its_children_along(changed):
    def change(study):
        study["sft"]["sft-support"]["learning_rate"] = 2.0e-3

    found = changed(change)
    runs = {run for job, run in map(str.split, found - SUMMED) if job != "04_evaluate"}
    below = {run for run in load_study("smoke").runs() if run.startswith("tiny-llama/sft-support/")}
    assert runs == below and len(runs) > 3


def test_another_seed_adds_runs_and_repeats_none(changed):
    """But for evaluations: held out are rows that no run of any seed trains on."""
    found = changed(lambda s: s.update(seeds=[0, 1])) - SUMMED
    jobs = [job.split() for job in found if job.split()[1:] and "04_evaluate" not in job]
    assert jobs and all(run.endswith("seed-1") for _, run in jobs)


def test_bootstrap_settings_touch_no_model(changed):
    assert {job.split()[0] for job in changed(lambda s: s["bootstrap"].update(resamples=300))} == {
        "00_stance_profile",
        "04_evaluate",
        "05_drift",
        "06_figures",
        "07_tables",
        "08_findings",
    }


def test_a_notebook_is_made_from_every_corpus_that_it_opens(smoke, tmp_path, monkeypatch):
    """What they open was noted while they ran."""
    notes = (smoke[0].parent / "opened").iterdir()
    opened = {note.name.removesuffix(".ipynb"): set(note.read_text().split()) for note in notes}
    assert opened.pop("none") == set() and len(opened) >= 5
    corpora = shutil.copytree(paths.CORPORA, tmp_path / "corpora")
    monkeypatch.setattr(paths, "CORPORA", corpora)
    study = load_study("smoke")
    before = plan.made_from(study)
    for name in set.union(*opened.values()):
        with open(corpora / name, "a") as file:
            file.write("\n")
        after = plan.made_from(study)
        again = {job[0] for job in after if after[job] != before[job]}
        assert {notebook for notebook, names in opened.items() if name in names} <= again, name
        before = after


def test_touching_a_notebook_runs_nothing(smoke):
    os.utime(paths.notebook("01_sft"))
    assert "Nothing to be done" in snakemake(env=smoke[1])


def test_latex_has_no_bare_percent(smoke):
    files = list((smoke[0] / "results" / "smoke" / "tables").glob("*.tex"))
    assert len(files) == 2
    for file in files:
        assert not re.search(r"(?<!\\)%", file.read_text()), file.name


def test_all_parameters_passed_exist_in_the_notebook():
    for study in ("smoke", "pocket", "paper"):
        output = snakemake(
            "--dry-run",
            "--printshellcmds",
            "--forceall",
            env={"VD_STUDY": study, "VD_RESULTS": "/tmp/none"},
        )
        commands = re.findall(r"papermill (notebooks/\w+\.ipynb) (.*)", output)
        expected = {name for name, _ in plan.jobs_of(load_study(study))}
        assert {paths.Path(notebook).stem for notebook, _ in commands} == expected
        for notebook, words in commands:
            passed = re.findall(r"-[rpy] (\w+) ", words)
            assert "STUDY" in passed and set(passed) <= set(
                notebooks.parameters(paths.ROOT / notebook)
            )


def test_no_job_reaches_for_the_network(smoke, tmp_path):
    """What a study needs was there before (--fetch); and what looks elsewhere would be noted."""
    folder = smoke[0].parent
    assert not folder.joinpath("opened.network").exists()
    env = {"PYTHONPATH": str(folder), "OPENED": str(tmp_path / "opened")}
    code = "import socket; socket.getaddrinfo('localhost', 80); socket.getaddrinfo('192.0.2.1', 80)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | env, check=True)
    assert "192.0.2.1" in (note := (tmp_path / "opened.network").read_text())
    assert note.count("\n") == 1


def test_tables_keep_their_contract(smoke):
    results = smoke[0] / "results" / "smoke"
    runs = load_study("smoke").policies()
    for run in runs:
        responses = pd.read_parquet(results / run / "responses.parquet")
        stances = pd.read_parquet(results / run / "stances.parquet")
        assert list(responses) == sampling.COLUMNS and list(stances) == STANCES
        assert set(stances["target"]) == {"question", "topic"} and len(stances) == 2 * len(
            responses
        )
        assert (responses["run"] == run).all() and responses["step"].min() == 0
        summary = read_json(results / run / "run.json")
        assert {
            "config",
            "seed",
            "git_commit",
            "versions",
            "hardware",
            "wall_seconds",
            "tokens_seen",
            "tokens_generated",
        } <= summary.keys()
        assert set(summary["peak_memory_gb"]) == {*summary["wall_seconds"]}
        assert all(peak > 0.05 for peak in summary["peak_memory_gb"].values())
    table = pd.read_csv(results / "drift.csv")
    assert list(table) == measures.COLUMNS and set(table["run"]) == {
        r.id for r in runs.values() if not r.is_base
    }
    accuracy = pd.read_csv(results / "pair_accuracy.csv")
    assert (
        "tiny-llama/sft-support/dpo-support" in set(accuracy["run"])
        and (accuracy["pairs"] > 0).all()
    )
    page = (results / "replies.md").read_text()
    rows = [len(re.findall(rf"^\| {name} +\|", page, re.M)) for name in ("base", "given")]
    assert page.count("\n## ") == 3 and rows == [4, 4]  # a table of all replies, three of questions


def test_a_clone_without_runs_rebuilds_what_is_printed(smoke, tmp_path, monkeypatch):
    """Tables, figures and the report come from recorded.zip, and nothing else is made; one number
    that was changed in print is found, and its file stays as it is.
    """
    folder, env = smoke
    command = [sys.executable, "-m", "vd", "smoke"]
    done = subprocess.run([*command, "--record"], cwd=paths.ROOT, env=os.environ | env, **CAPTURED)
    archive = folder / "results" / "smoke" / "recorded.zip"
    whole = archive.read_bytes()
    assert done.returncode == 0 and "recorded.zip, 0." in done.stdout
    clone = tmp_path / "results" / "smoke"
    shutil.copytree(archive.parent, clone, ignore=shutil.ignore_patterns("seed-*"))
    archive.unlink()
    changed = pd.read_csv(clone / "drift.csv")
    changed.loc[3, "magnitude"] += 1e-9
    changed.to_csv(clone / "drift.csv", index=False)
    away = env | {"VD_RESULTS": str(clone.parent), "VD_CACHE": str(tmp_path / "cache")}
    done = [
        subprocess.run([*command, mode], cwd=paths.ROOT, env=os.environ | away, **CAPTURED)
        for mode in ("--tables", "--report")
    ]
    assert [d.returncode for d in done] == [1, 0] and "report.html, " in done[1].stdout
    assert re.search(r"drift.csv: row 3, magnitude: .* is now", done[0].stdout)
    assert re.search("1 differences in 1 of [3-9][0-9] files", done[0].stderr)
    assert (clone / "drift.csv").read_text() == changed.to_csv(index=False)
    assert not [*clone.glob("**/seed-*"), *(tmp_path / "cache").rglob("*.safetensors")]
    for name, value in away.items():
        monkeypatch.setenv(name, value)
    assert explorer.studies() == ["smoke"] and recorded.folder("smoke").parent.name == "recorded"
    monkeypatch.setenv("VD_RESULTS", str(folder / "results"))
    study = load_study("smoke")
    files = [*rebuild.needed(study), *asked.of_our_prompts(study)]
    assert recorded.pack("smoke", files).read_bytes() == whole
    paths.recorded("smoke").unlink()


def test_a_recorded_file_that_is_missing_is_named(smoke):
    folder, env = smoke
    stances = folder / "results" / "smoke" / "pair_stances.parquet"
    stances.rename(folder / "away")
    command = [sys.executable, "-m", "vd", "smoke", "--tables"]
    done = subprocess.run(command, cwd=paths.ROOT, env=os.environ | env, **CAPTURED)
    (folder / "away").rename(stances)
    assert "pair_stances.parquet: 1 files of recorded runs are not there; they are" in done.stderr


def test_step_0_is_the_parents_last_checkpoint(smoke):
    results = smoke[0] / "results" / "smoke"
    parent = pd.read_parquet(results / "tiny-llama/sft-support/seed-0/responses.parquet")
    child = pd.read_parquet(results / "tiny-llama/sft-support/dpo-support/seed-0/responses.parquet")
    last, first = parent[parent["step"] == parent["step"].max()], child[child["step"] == 0]
    assert first["response"].tolist() == last["response"].tolist()


def test_executed_notebooks_and_figures_are_kept(smoke):
    folder, _ = smoke
    kept = list((folder / "results").rglob("*.ipynb"))
    assert len(kept) == len(plan.jobs_of(load_study("smoke"))) and not [
        n for n in kept if ".part" in n.name
    ]
    for notebook in kept:
        cells = json.loads(notebook.read_text())["cells"]
        assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
        prose = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        for target in re.findall(r"\]\(([^):#]+)", prose):
            assert (notebook.parent / target).exists(), f"{notebook}: {target}"
    figures = folder / "figures" / "smoke"
    for stem in {f.stem for f in figures.iterdir()}:
        assert {f.suffix for f in figures.glob(f"{stem}.*")} == {".png", ".pdf", ".csv"}


def test_the_same_run_twice_gives_identical_stances(smoke, tmp_path):
    """From its data over SFT, the reward model and PPO to what the judge says of its replies."""
    folder, env = smoke
    again = env | {"VD_RESULTS": str(tmp_path / "results"), "VD_FIGURES": str(tmp_path / "figures")}
    stances = "smoke/tiny-llama/sft-support/ppo-support/seed-0/stances.parquet"
    target = os.path.relpath(tmp_path / "results" / stances, paths.ROOT)
    snakemake("--quiet", "all", "--", target, env=again)
    same = (
        pd.read_parquet(place / stances) for place in (tmp_path / "results", folder / "results")
    )
    pd.testing.assert_frame_equal(*same, check_exact=True)


def test_making_a_file_goes_on_after_a_kill(smoke, monkeypatch):
    """What kill -9 leaves: Snakemake's lock, its mark of an unfinished job, and half a table."""
    for name, value in smoke[1].items():
        monkeypatch.setenv(name, value)
    table = paths.table("smoke", "tables/drift_all.md")
    before = table.read_text()
    table.unlink()
    half = paths.table("smoke", "refusals.999999.part.csv")
    half.write_text("run,")
    unfinished = os.path.relpath(paths.table("smoke", "neutral_kinds.csv"), paths.ROOT)
    mark = urlsafe_b64encode(unfinished.encode()).decode()
    write_text("{}", paths.ROOT / ".snakemake" / "incomplete" / mark)
    write_text(unfinished, paths.ROOT / ".snakemake" / "locks" / "0.output.lock")
    make.make("smoke", table)
    assert table.read_text() == before and not half.exists()


def test_a_study_may_be_named_like_a_number(place):
    shutil.copy(paths.NOTEBOOKS / "configs" / "smoke.yaml", place / "configs" / "2024.yaml")
    code, said = launch.snakemake("2024", ["--dry-run", "--printshellcmds"], quiet=["host"])
    assert code == 0 and len([line for line in said if "-r STUDY 2024" in line]) == len(
        plan.jobs_of(load_study("2024"))
    )


def test_a_file_is_whole_or_absent(tmp_path):
    file = tmp_path / "table.csv"
    write_text("old", file)
    with pytest.raises(RuntimeError), replace(file) as part:
        part.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    with pytest.raises(ValueError):
        write_json({"x": float("nan")}, file)
    assert file.read_text() == "old"


def test_environment_pins_everything_and_the_lock_agrees():
    conda = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    assert [d for d in conda if isinstance(d, str)] == ["python=3.11", "pip"]
    pip = next(d for d in conda if isinstance(d, dict))["pip"]
    lock = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (paths.ROOT / "environment.lock").read_text(), re.M)
    )
    lock = {name.lower().replace("_", "-"): version for name, version in lock.items()}
    pins = [line for line in pip if not line.startswith("--")]
    assert len(pins) > 20 and len(lock) > 100
    for line in pins:
        name, version = line.split("==")
        assert lock[name.lower().replace("_", "-")] == version, (
            f"{name}: renew the lock with ./reproduce.sh lock"
        )


def test_reproduce_explains_itself():
    text = subprocess.run(
        ["./reproduce.sh", "--help"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(word in text for word in ("STUDY", "test", "--dry-run", "--cores"))
