"""GPUs that a job has to itself: a lock file each, held until the process ends.

Snakemake counts GPUs and hands out none, so without this all jobs would share the first. A batch
system hands them out itself, and where CUDA_VISIBLE_DEVICES is set, jobs take from those alone.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from itertools import islice
from pathlib import Path

from vd.store.parents import POLL

BATCH_SYSTEMS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
_held = []  # open files: their locks end with this process


def in_sight() -> list[str]:
    """Ids of the GPUs that jobs may use; none where CUDA_VISIBLE_DEVICES is empty."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [own.strip() for own in given.split(",") if own.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def take(n: int) -> None:
    """Wait for `n` free GPUs, or all where there are fewer, and leave this process, and those that
    it starts, no others in sight.

    Where a batch system has chosen, its choice stands.
    """
    ids = in_sight()
    if any(name in os.environ for name in BATCH_SYSTEMS) or not ids:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # of a GPU that nvidia-smi does not know
        return
    n = min(n, len(ids))
    # all of them anew each time: two jobs that hold half of theirs would wait for ever
    while len(taken := list(islice(filter(None, map(_lock, ids)), n))) < n:
        del taken
        time.sleep(POLL)
    _held.extend(taken)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu for gpu, _ in taken)


def _lock(gpu: str):
    """The id with its locked file; None where another process has it."""
    # of all studies and checkouts of this user on this machine
    folder = Path(tempfile.gettempdir()) / f"value-drifts-gpus-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / gpu, "w", encoding="utf-8")  # noqa: SIM115 # for as long as this process lives
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return gpu, file
