"""What is written down: files that are whole or absent, provenance of every stage, progress.

Every table, figure and record goes through `replace`, so a reader never sees a half-written file.
"""

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from vd import paths

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "pandas", "scikit-learn")


@contextmanager
def replace(path: Path):
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, remove it if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_table(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table atomically as parquet or CSV, whichever the path's ending says."""
    with replace(path) as part:
        frame.to_parquet(part, index=False) if path.suffix == ".parquet" else frame.to_csv(part, index=False)
    return path


def write_text(text: str, path: Path) -> Path:
    """Write a text file atomically."""
    with replace(path) as part:
        part.write_text(text)
    return path


def write_json(content: dict, path: Path) -> Path:
    """Write JSON atomically; NaN is refused because other readers cannot parse it."""
    return write_text(json.dumps(content, indent=1, default=str, allow_nan=False) + "\n", path)


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(Path(path).read_text())


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
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Progress:
    """Progress of one stage of one run, one line at most every `every` seconds, to the file named by VD_PROGRESS.

    `reproduce.sh` shows that file. Nothing is printed, so an executed notebook holds results and no clock times.
    """

    def __init__(self, stage: str, run_id: str, total: int, every: float = 10.0):
        self.stage, self.run_id, self.total, self.every = stage, run_id, total, every
        self.start = self.last = time.monotonic()
        self.first = 0

    def resume(self, done: int) -> None:
        """Start counting from `done` units, for a stage that continues an interrupted one."""
        self.first = done

    def __call__(self, done: int, note: str = "") -> None:
        """Report `done` of `total` units."""
        now = time.monotonic()
        if (now - self.last < self.every and done < self.total) or "VD_PROGRESS" not in os.environ:
            return
        self.last = now
        left = (now - self.start) / max(done - self.first, 1) * (self.total - done)
        line = (
            f"{datetime.now():%H:%M:%S}  {self.stage:<6} {self.run_id}  {done}/{self.total}"
            f"  about {left:.0f} s left  {note}".rstrip()
        )
        with open(os.environ["VD_PROGRESS"], "a") as log:
            log.write(line + "\n")
