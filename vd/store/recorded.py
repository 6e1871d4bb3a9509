"""Runs of a study as one file in git, so that its replies and numbers can be read without training.

    python -m vd STUDY --record            writes results/<study>/recorded.zip

It holds what tables, figures, the explorer and the report are made from (replies, stances,
log-odds, metrics, records), and no weights. Where no run of a study was made, its runs are read
from a copy in the cache.
"""

import hashlib
import zipfile
from functools import lru_cache
from pathlib import Path

from vd import paths
from vd.store.cache import kept
from vd.store.files import replace


def pack(study: str, files: list[Path]) -> Path:
    """Write files of a study's runs into one, the same bytes from the same files."""
    with replace(paths.recorded(study)) as part, zipfile.ZipFile(part, "w") as archive:
        for file in sorted(files):
            # a date of its own would make another file of the same content
            name = zipfile.ZipInfo(file.relative_to(paths.results(study)).as_posix())
            archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return paths.recorded(study)


def folder(study: str) -> Path:
    """Where files of the study's runs are to be read: results/<study>, or, if no run was made there
    and runs are recorded, their copy.
    """
    own, archive = paths.results(study), paths.recorded(study)
    if not archive.exists() or next(own.glob("**/seed-*"), None):
        return own
    copy = paths.cache() / "recorded" / _digest(archive, archive.stat().st_mtime_ns)
    return kept(copy, zipfile.ZipFile(archive).extractall)


@lru_cache
def _digest(archive: Path, changed: int) -> str:
    """The hash of a file as it was when it was last changed."""
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def found(file: Path, study: str) -> Path:
    """Where a file of a run is to be read; it need not exist."""
    return folder(study) / file.relative_to(paths.results(study))
