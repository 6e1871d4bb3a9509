"""One run trained by several processes, each with a GPU of its own, or with none for a test.

    python -m vd.training.processes PARENT N STUDY RUN

starts N of them by torchrun. All build the same trainer; gradients are summed over them, so batches
and steps are those of one process. Whole models are sharded by FSDP2, adapters trained by DDP (see
vd/training/trainer.py).
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from vd import paths, plugins
from vd.store.parents import POLL, end_with
from vd.store.progress import Line
from vd.study.load import load_study
from vd.study.runs import Run

ENTRY = ["-m", "vd.training.processes"]
ERROR = re.compile(r"(\[rank\d+\]: )?(\w+\.)*(\w+(Error|Exception|Interrupt)): ")


def world() -> int:
    """How many processes train the run together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first() -> bool:
    """Whether this is the one of them that writes files, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def needed(run: Run) -> bool:
    """Whether a run is to be trained in processes of its own.

    One alone too where it sees several GPUs, over which transformers' Trainer would spread a batch,
    and make it larger.
    """
    return run.training.processes > 1 or torch.cuda.device_count() > 1


def start(run: Run, entry: Sequence[str] = ENTRY) -> list[Path]:
    """Train a run in `processes` processes and return its checkpoint folders, step 0 first.

    RuntimeError, with the first error that one of them ended by, where they fail.
    """
    log = paths.run(run.study, run.id) / "processes.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    n, there = run.training.processes, torch.cuda.device_count()
    if 0 < there < n:
        why = f"processes {n}: only {there} GPUs are in sight"
        raise RuntimeError(f"{run.id}: {why}; lower processes in the study")
    command = [sys.executable, *entry, str(os.getpid()), str(n), run.study, run.id]
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    with tempfile.NamedTemporaryFile("w+") as said, open(log, "w", encoding="utf-8") as told:
        env = {"VD_PROGRESS": said.name} | os.environ
        env["OMP_NUM_THREADS"] = str(max(1, threads // n))
        how = {"cwd": paths.ROOT, "env": env, "stdout": told, "stderr": told}
        with subprocess.Popen(command, **how) as process:
            _follow(process, Path(said.name))
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [ERROR.sub(r"\3: ", line) for line in lines if ERROR.match(line)]
        why = errors[0] if errors else f"ended with status {process.returncode}"
        raise RuntimeError(f"{run.id}: {why}; what its {n} processes said: {log}")
    log.unlink()
    steps = paths.steps(run.study, run.id)
    return [paths.checkpoint(run.study, run.id, step) for step in steps]


def _follow(process: subprocess.Popen, said: Path) -> None:
    """Show the processes' progress below the cell that waits for them."""
    line = Line()
    while process.poll() is None:
        lines = said.read_text(encoding="utf-8").splitlines()
        if lines:
            line(lines[-1])
        time.sleep(POLL)
    line.clear()


def main(entry: Sequence[str] = ENTRY) -> None:
    """As the one that was started: start N more. As one of those: train the run."""
    parent, n, study, run_id = sys.argv[1:]
    end_with(os.getppid())
    if "RANK" in os.environ:
        run = load_study(study).run(run_id)
        plugins.load("methods", run.method).train(run)
        return
    if os.getppid() != int(parent):  # it ended before this process began to watch
        sys.exit(1)
    from torch.distributed.run import main as torchrun

    torchrun(["--standalone", "--nproc_per_node", n, *entry, *sys.argv[1:]])


if __name__ == "__main__":
    main()
