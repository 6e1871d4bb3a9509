"""Who ran this, with what and on what: the part of every record that no setting decides."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from vd import paths

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "pandas", "scikit-learn")


def provenance() -> dict:
    """Who ran this.

    Git commit (with `+` if files were changed since), package versions, hardware, and the most
    memory that this process has held so far, in GB (1e9 bytes).
    """
    return {
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "hardware": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            # Snakemake sets it to the number of threads of the job
            "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
            "accelerator": _accelerator(),
            "peak_memory_gb": _peak_memory(),
            "peak_accelerator_memory_gb": _peak_accelerator_memory(),
        },
    }


def _accelerator() -> str | None:
    """Name of the GPU, if the stage that is recorded has loaded torch and found one."""
    torch = _torch_with_gpu()
    return torch.cuda.get_device_name(0) if torch else None


def _peak_accelerator_memory() -> float | None:
    """What torch's allocator has held at most of the GPU, its own overhead included."""
    torch = _torch_with_gpu()
    return round(torch.cuda.max_memory_reserved(0) / 1e9, 2) if torch else None


def _torch_with_gpu():
    torch = sys.modules.get("torch")
    return torch if torch and torch.cuda.is_available() else None


def _peak_memory() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)  # bytes there, else kB


def _git_commit() -> str | None:
    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=paths.ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), paths.ROOT):
            return None  # a copy without history, within a repository of something else
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
