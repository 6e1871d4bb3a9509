"""Processes that are started here: they end with the one that started them, however that happens,
and may live in another environment.
"""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

PATIENCE = 5.0  # seconds to wait until killed processes are gone
POLL = 0.3  # seconds between two looks
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # which lead to this environment's packages


def end_with(parent: int) -> None:
    """Let this process and all below it end once `parent`, the process that started it, is gone."""

    def watch():
        # A process that loses its parent gets another one, even after kill -9, which sends no
        # signal.
        while os.getppid() == parent:
            time.sleep(POLL)
        # One by one: kernels have sessions of their own, so no signal to the group reaches them.
        kill(psutil.Process().children(recursive=True))
        # sys.exit would end this thread alone
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def outside() -> dict[str, str]:
    """Variables for a program that lives in a Python environment of its own."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def kill(processes: Sequence[psutil.Process]) -> None:
    """End processes and wait until they are gone."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=PATIENCE)
