"""Folders that are made once for all studies and kept: models, trained judges."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from vd.store.fingerprint import Fingerprint

MADE = "made.json"  # what a folder was made from


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled on first use by `make`, by one process while others wait.

    What is there needs no right to write, so a cache may be shared and read-only.
    """
    # without the lock, whose file could not be made in a cache that is read-only
    if folder.exists():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            # asked again: another process may have made it while this one waited
            if not folder.exists():
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                part.mkdir()
                try:
                    make(part)
                    for file in part.iterdir():  # safetensors are written for their owner alone
                        if file.is_file():
                            file.chmod(part.stat().st_mode & 0o666)
                    # last of all, so that a folder that is there is whole
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        # The last two mean a file in the place of a folder. No other error, such as a full disk, is
        # mended by another VD_CACHE.
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        if error.errno not in refused:
            raise
        raise PermissionError(
            f"{folder}: is not there yet, and its place cannot be written ({error.strerror}); "
            "set VD_CACHE to a folder that can be written"
        ) from None
    return folder


def kept_for(place: Path, asked: Fingerprint, make: Callable[[Path], None]) -> Path:
    """The folder in `place` that was made from the same, or else one that is made now.

    It is named by the fingerprint with which it was made.
    """
    # By record and not by name: a key that is new since then must not train a judge again.
    for record in sorted(place.glob(f"*/{MADE}")):
        if not asked.changes(record):
            return record.parent

    def make_and_say_from_what(part: Path) -> None:
        make(part)
        asked.write(part / MADE)

    return kept(place / asked.key, make_and_say_from_what)
