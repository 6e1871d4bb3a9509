"""The workflow on the study smoke: it runs, leaves what it promises, and re-runs exactly what a change touches."""

import json
import os
import re
import shutil
import subprocess
import time

import nbformat
import pandas as pd
import pytest
import yaml

from vd import drift, paths, probe, record, workflow
from vd.study import load_study

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
    "judge",
    "target",
]


def snakemake(*words, env=None, check=True):
    """Run the workflow from the repository's root; returns its whole output."""
    done = subprocess.run(
        ["snakemake", "--snakefile", "notebooks/Snakefile", "--cores", "2", *words],
        cwd=paths.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | (env or {}),
    )
    assert not check or done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Folders of a finished study `copy`, equal to smoke, and the environment that finds them."""
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "configs").mkdir()
    shutil.copy(paths.NOTEBOOKS / "configs" / "smoke.yaml", folder / "configs" / "copy.yaml")
    env = {f"VD_{name.upper()}": str(folder / name) for name in ("configs", "results", "figures")} | {
        "VD_STUDY": "copy"
    }
    start = time.monotonic()
    snakemake("--quiet", "all", env=env)
    print(f"the study smoke took {time.monotonic() - start:.0f} s")
    return folder, env


@pytest.fixture
def changed(smoke):
    """Change the finished study for one test; returns the jobs that would run, by rule and run."""
    folder, env = smoke
    file = folder / "configs" / "copy.yaml"
    before = file.read_text()

    def jobs(change):
        content = yaml.safe_load(before)
        change(content)
        file.write_text(yaml.safe_dump(content))
        output = snakemake("--dry-run", "--printshellcmds", env=env)
        return {
            match.group(1) + " " + (match.group(3) or "")
            for match in re.finditer(r"papermill notebooks/(\w+)\.ipynb .*-r STUDY copy( -r RUN (\S+))?", output)
        }

    yield jobs
    file.write_text(before)


def test_a_finished_study_starts_nothing_and_returns_in_seconds(smoke):
    start = time.monotonic()
    assert "Nothing to be done" in snakemake(env=smoke[1])
    assert time.monotonic() - start < 15


def test_one_learning_rate_reruns_that_run_and_what_depends_on_it(changed):
    def change(study):
        study["preference"]["dpo-support"]["learning_rate"] = 2.0e-3

    run = "tiny-llama/sft-support/dpo-support/seed-0"
    assert changed(change) == {
        f"02_preference {run}",
        f"03_probe {run}",
        f"04_judge {run}",
        "05_drift ",
        "06_figures ",
        "07_tables ",
        "08_findings ",
    }


def test_a_parent_takes_its_children_along(changed):
    def change(study):
        study["sft"]["sft-support"]["learning_rate"] = 2.0e-3

    runs = {job.split()[1] for job in changed(change) if job.split()[1:]}
    below = {run for run in load_study("smoke").runs() if run.startswith("tiny-llama/sft-support/")}
    assert runs == below and len(runs) > 3


def test_another_seed_adds_runs_and_repeats_none(changed):
    runs = {job.split()[1] for job in changed(lambda s: s.update(seeds=[0, 1])) if job.split()[1:]}
    assert runs and all(run.endswith("seed-1") for run in runs)


def test_bootstrap_settings_touch_no_model(changed):
    assert {job.split()[0] for job in changed(lambda s: s["bootstrap"].update(resamples=300))} == {
        "00_stance_profile",
        "05_drift",
        "06_figures",
        "07_tables",
        "08_findings",
    }


def test_touching_a_notebook_runs_nothing(smoke):
    os.utime(paths.notebook("01_sft"))
    assert "Nothing to be done" in snakemake(env=smoke[1])


def test_code_counts_prose_does_not(tmp_path):
    source = paths.notebook("05_drift")
    book = nbformat.read(source, 4)
    book.cells[0].source += " More prose."
    book.cells[2].outputs = []
    nbformat.write(book, tmp_path / "prose.ipynb")
    assert workflow.code_hash(tmp_path / "prose.ipynb") == workflow.code_hash(source)
    next(c for c in book.cells if c.cell_type == "code").source += "\nx = 1"
    nbformat.write(book, tmp_path / "code.ipynb")
    assert workflow.code_hash(tmp_path / "code.ipynb") != workflow.code_hash(source)


def test_a_new_colour_retrains_nothing(tmp_path, monkeypatch):
    notebook, real = paths.notebook("01_sft"), workflow._file
    before = [workflow.code_hash(notebook, "sft", without) for without in ((), ("vd.plots",))]
    repainted = tmp_path / "plots.py"
    repainted.write_text(real("vd.plots").read_text().replace("#0072b2", "#000000"))
    monkeypatch.setattr(workflow, "_file", lambda name: repainted if name == "vd.plots" else real(name))
    after = [workflow.code_hash(notebook, "sft", without) for without in ((), ("vd.plots",))]
    assert after[0] != before[0] and after[1] == before[1]


def test_latex_has_no_bare_percent(smoke):
    files = list((smoke[0] / "results" / "copy" / "tables").glob("*.tex"))
    assert len(files) == 2
    for file in files:
        assert not re.search(r"(?<!\\)%", file.read_text()), file.name


def test_a_method_is_part_of_its_runs_code_only():
    notebook = paths.notebook("02_preference")
    assert workflow.code_hash(notebook, "dpo") != workflow.code_hash(notebook, "sft")


def test_all_parameters_passed_exist_in_the_notebook():
    for study in ("smoke", "pocket", "paper"):
        output = snakemake(
            "--dry-run", "--printshellcmds", "--forceall", env={"VD_STUDY": study, "VD_RESULTS": "/tmp/none"}
        )
        commands = re.findall(r"papermill (notebooks/\w+\.ipynb) (.*)", output)
        assert len({notebook for notebook, _ in commands}) == 10
        for notebook, words in commands:
            passed = re.findall(r"-[rpy] (\w+) ", words)
            assert "STUDY" in passed and set(passed) <= set(workflow.parameters(paths.ROOT / notebook))


def test_tables_keep_their_contract(smoke):
    results = smoke[0] / "results" / "copy"
    runs = load_study("smoke").runs()
    for run in runs:
        responses = pd.read_parquet(results / run / "responses.parquet")
        stances = pd.read_parquet(results / run / "stances.parquet")
        assert list(responses) == probe.COLUMNS and list(stances) == STANCES
        assert set(stances["target"]) == {"question", "topic"} and len(stances) == 2 * len(responses)
        assert (responses["run"] == run).all() and responses["step"].min() == 0
        summary = record.read_json(results / run / "run.json")
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
    table = pd.read_csv(results / "drift.csv")
    assert list(table) == drift.COLUMNS and set(table["run"]) == {r.id for r in runs.values() if r.phase != "base"}


def test_step_0_is_the_parents_last_checkpoint(smoke):
    results = smoke[0] / "results" / "copy"
    parent = pd.read_parquet(results / "tiny-llama/sft-support/seed-0/responses.parquet")
    child = pd.read_parquet(results / "tiny-llama/sft-support/dpo-support/seed-0/responses.parquet")
    last, first = parent[parent["step"] == parent["step"].max()], child[child["step"] == 0]
    assert first["response"].tolist() == last["response"].tolist()


def test_executed_notebooks_and_figures_are_kept(smoke):
    folder, _ = smoke
    kept = list((folder / "results").rglob("*.ipynb"))
    assert len(kept) == 26 and not [n for n in kept if ".part" in n.name]
    for notebook in kept:
        cells = json.loads(notebook.read_text())["cells"]
        assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    figures = folder / "figures" / "copy"
    for stem in {f.stem for f in figures.iterdir()}:
        assert {f.suffix for f in figures.glob(f"{stem}.*")} == {".png", ".pdf", ".csv"}


def test_same_study_twice_gives_identical_numbers(smoke, tmp_path):
    folder, env = smoke
    again = env | {"VD_RESULTS": str(tmp_path / "results"), "VD_FIGURES": str(tmp_path / "figures")}
    target = os.path.relpath(tmp_path / "results" / "copy" / "drift.csv", paths.ROOT)
    snakemake("--quiet", "all", "--", target, env=again)
    assert (tmp_path / "results/copy/drift.csv").read_bytes() == (folder / "results/copy/drift.csv").read_bytes()


def test_a_file_is_whole_or_absent(tmp_path):
    file = tmp_path / "table.csv"
    record.write_text("old", file)
    with pytest.raises(RuntimeError), record.replace(file) as part:
        part.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    with pytest.raises(ValueError):
        record.write_json({"x": float("nan")}, file)
    assert file.read_text() == "old"


def test_environment_pins_everything_and_the_lock_agrees():
    conda = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    assert [d for d in conda if isinstance(d, str)] == ["python=3.11", "pip"]
    pip = next(d for d in conda if isinstance(d, dict))["pip"]
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (paths.ROOT / "environment.lock").read_text(), re.M))
    lock = {name.lower().replace("_", "-"): version for name, version in lock.items()}
    pins = [line for line in pip if not line.startswith("--")]
    assert len(pins) > 20 and len(lock) > 100
    for line in pins:
        name, version = line.split("==")
        assert lock[name.lower().replace("_", "-")] == version, f"{name}: renew the lock with ./reproduce.sh lock"


def test_reproduce_explains_itself():
    text = subprocess.run(
        ["./reproduce.sh", "--help"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert all(word in text for word in ("STUDY", "test", "--dry-run", "--cores"))
