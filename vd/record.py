"""What is written down: files that are whole or absent, provenance of every stage, progress.

Every table, figure and record goes through `replace`, so a reader never sees a half-written file.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from vd import paths
from vd.progress import Progress as Progress  # apart, since no number depends on it

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "pandas", "scikit-learn")


@contextmanager
def replace(path: Path):
    """Yield a temporary path beside `path`, which takes its place if the block succeeds.

    What is renamed has reached the disk, so a power cut leaves the old file or the new one. A
    process that is killed leaves its part, which `remove_parts` finds by its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what `replace` left in a folder, and below it, in processes that were killed."""
    for part in folder.rglob("*.part*"):
        pid = re.search(r"\.(\d+)\.part(\.\w+)?$", part.name)
        if pid and not psutil.pid_exists(int(pid[1])):
            part.unlink(missing_ok=True)


def write_table(frame: "pd.DataFrame", path: Path) -> Path:
    """Write a table atomically as parquet or CSV, whichever the path's ending says."""
    with replace(path) as part:
        frame.to_parquet(part, index=False) if path.suffix == ".parquet" else frame.to_csv(part, index=False)
    return path


def write_text(text: str, path: Path) -> Path:
    """Write a text file atomically."""
    with replace(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def write_json(content: dict, path: Path) -> Path:
    """Write JSON atomically; NaN is refused because other readers cannot parse it."""
    return write_text(json.dumps(content, indent=1, default=str, allow_nan=False) + "\n", path)


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


class Timer:
    """Wall seconds since it was made."""

    def __init__(self):
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far, to a tenth."""
        return round(time.monotonic() - self.start, 1)


def write_run(study, run, judge: str, judge_seconds: float, quality: dict) -> dict:
    """Put together run.json, the record of a whole run, from the records of its stages; returns its content.

    The base model was not trained, so its record has no training part and no tokens seen.
    """
    trained = paths.record(study.name, run.id, "train")
    train = read_json(trained) if trained.exists() else {"wall_seconds": {}, "tokens_seen": 0}
    probe = read_json(paths.record(study.name, run.id, "probe"))
    content = {
        "run": run.id,
        "config": {"run": run.model_dump(), **study.model_dump(include={"probing", "judge", "bootstrap"})},
        "seed": run.seed,
        "judge": {"name": judge, "agreement": quality},
        **provenance(),
        "wall_seconds": train["wall_seconds"] | probe["wall_seconds"] | {"judge": judge_seconds},
        "tokens_seen": train["tokens_seen"],
        "tokens_generated": probe["tokens_generated"],
        "model_revision": probe["model_revision"],
        "train": {
            k: v for k, v in train.items() if k in ("checkpoints", "effective_batch_size", "trainable_parameters")
        },
    }
    write_json(content, paths.record(study.name, run.id, "run"))
    return content


def provenance() -> dict:
    """Who ran this: git commit (with `+` if files were changed since), package versions, hardware."""
    return {
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "hardware": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
            "accelerator": _accelerator(),
        },
    }


def _accelerator() -> str | None:
    """Name of the GPU, if the stage that is recorded has loaded torch and found one."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name(0) if torch and torch.cuda.is_available() else None


def _git_commit() -> str | None:
    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=paths.ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), paths.ROOT):
            return None  # a copy without history, within a repository of something else
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
