"""Files that are whole or absent: every table, figure and record goes through `replace`.

So a reader never sees a half-written file, whatever ends the process that writes it.
"""

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

# apart, since no number depends on it
if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replace(path: Path):
    """Yield a temporary path beside `path`, which takes its place if the block succeeds.

    What is renamed has reached the disk, so a power cut leaves the old file or the new one. A
    process that is killed leaves its part, which `remove_parts` finds by its name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, since a rename across file systems is not atomic; with its ending, by which
    # matplotlib chooses a format and papermill knows a notebook.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with open(part, "rb") as file:
            # before the rename, or a power cut could leave the new name with an empty file
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what `replace` left in a folder, and below it, in processes that were killed."""
    for part in folder.rglob("*.part*"):
        pid = re.search(r"\.(\d+)\.part(\.\w+)?$", part.name)
        # A living process still writes its part; a name without a number was not made by `replace`.
        if pid and not psutil.pid_exists(int(pid[1])):
            part.unlink(missing_ok=True)


def write_table(frame: "pd.DataFrame", path: Path) -> Path:
    """Write a table atomically as parquet or CSV, whichever the path's ending says."""
    with replace(path) as part:
        frame.to_parquet(part, index=False) if path.suffix == ".parquet" else frame.to_csv(
            part, index=False
        )
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
