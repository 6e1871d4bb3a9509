"""The study smoke on a real Slurm cluster of one node, through the profile that users edit."""

import re
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml
from cluster import cluster, missing, squeue

from vd import paths
from vd.costs import requests
from vd.study.load import load_study
from vd.workflow.plan import TRAINING

PROFILE = paths.NOTEBOOKS / "profiles" / "slurm" / "config.yaml"


def profile_for(folder):
    """The users' profile, with what this cluster lacks: accounts, accounting, GPUs."""
    content = yaml.safe_load(PROFILE.read_text())
    content["default-resources"].pop("slurm_account")
    for resources in content["set-resources"].values():
        resources |= {"gpu": 0, "mem_mb": 2000}
    content |= {"slurm-no-account": True, "slurm-status-command": "squeue", "jobs": 4}
    content |= {"slurm-init-seconds-before-status-checks": 5, "latency-wait": 10}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.slow
def test_smoke_runs_on_a_cluster_and_a_job_that_is_requeued_is_finished(place, tmp_path):
    if why := missing():
        pytest.skip(why)
    text = (paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text()
    (place / "configs" / "queued.yaml").write_text(text)
    command = [sys.executable, "-m", "vd.workflow.launch", "queued"]
    command += ["--workflow-profile", str(profile_for(tmp_path / "profile"))]
    requeued = None
    with cluster(tmp_path / "slurm"), open(tmp_path / "said", "w+") as said:
        with subprocess.Popen(command, cwd=paths.ROOT, stdout=said, stderr=said) as study:
            while study.poll() is None:
                rows = [
                    row.split() for row in squeue("squeue", "-h", "-o", "%i %T %M").splitlines()
                ]
                running = [row[0] for row in rows if row[1] == "RUNNING" and row[2] > "0:15"]
                if requeued is None and running:
                    requeued = running[0]
                    subprocess.run(["scontrol", "requeue", requeued], check=True)
                time.sleep(1)
        said.seek(0)
        assert study.returncode == 0, said.read()[-3000:]
    assert requeued
    logs = (tmp_path / "slurm" / "slurmctld.log").read_text()
    assert f"Requeuing JobId={requeued}" in logs
    assert f"_job_complete: JobId={requeued} done" in logs
    assert len(pd.read_csv(paths.table("queued", "drift.csv"))) > 0
    figures = {file.suffix for file in paths.figures("queued").glob("drift.*")}
    assert figures == {".png", ".pdf", ".csv"}


def test_what_jobs_ask_for_grows_with_their_model_and_with_each_try():
    paper, smoke = (load_study(name).runs() for name in ("paper-8b", "smoke"))
    large = paper["llama-3.1-8b/sft-alpaca/seed-0"]
    small = smoke["tiny-llama/sft-support/seed-0"]
    assert requests.memory_mb(large) > 48_000 > 7_000 > requests.memory_mb(small)
    assert requests.memory_mb(large, 2) == 2 * requests.memory_mb(large)
    assert requests.minutes(large) > 10 * 60 > 70 > requests.minutes(small, 1)
    assert requests.minutes(large, 100) == 7 * 24 * 60


def test_every_rule_that_uses_a_gpu_is_in_the_profile():
    content = yaml.safe_load(PROFILE.read_text())
    text = (paths.NOTEBOOKS / "Snakefile").read_text()
    rules = re.split(r"\n *rule ", text)[1:]
    named = {rule.partition(":")[0] for rule in rules if "gpu=1," in rule} | set(TRAINING)
    assert set(content["set-resources"]) == named
