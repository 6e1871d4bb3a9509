"""GPUs for jobs: each its own, in turns where there are too few; stand-ins for nvidia-smi."""

import os
import subprocess
import sys
import time

import pytest

from vd import paths
from vd.workflow import launch, slots

TAKE = """
import os, sys, time
from vd.workflow import slots
slots.take(int(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """One with eight GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor i in 0 1 2 3 4 5 6 7; do echo GPU $i: some; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", *slots.BATCH_SYSTEMS):
        monkeypatch.delenv(name, raising=False)


def taking(n, seconds=20.0):
    command = [sys.executable, "-c", TAKE, str(n), str(seconds)]
    return subprocess.Popen(command, cwd=paths.ROOT, stdout=subprocess.PIPE, text=True)


def test_jobs_side_by_side_have_different_gpus_and_wait_for_free_ones(machine):
    jobs = [taking(n) for n in (1, 4, 2, 1)]
    given = [job.stdout.readline().strip().split(",") for job in jobs]
    assert [len(own) for own in given] == [1, 4, 2, 1]
    assert sorted(gpu for own in given for gpu in own) == [str(i) for i in range(8)]
    late = taking(2, 0)
    time.sleep(3)
    assert late.poll() is None  # all are taken
    jobs[2].kill()  # even so its locks end
    assert late.stdout.readline().strip().split(",") == given[2]
    for job in (*jobs, late):
        job.kill()
        job.wait()
        job.stdout.close()


@pytest.mark.parametrize(
    ("env", "n", "seen"),
    [
        ({}, 1, "0"),
        ({}, 9, "0,1,2,3,4,5,6,7"),  # what is there; training then says what is missing
        ({"CUDA_VISIBLE_DEVICES": "5, GPU-7f"}, 2, "5,GPU-7f"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, ""),
        ({}, 0, ""),  # a job that needs none
        ({"CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "1"}, 2, "3"),
    ],
)
def test_what_a_job_sees(machine, monkeypatch, env, n, seen):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    job = taking(n, 0)
    assert job.communicate()[0].strip() == seen


def test_as_many_jobs_at_once_as_there_are_gpus(machine, monkeypatch):
    assert launch._limits() == ["--resources", "gpu=8"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert launch._limits() == ["--resources", "gpu=2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch._limits() == []
