"""What is said while work goes on. No number depends on it, so changing it runs nothing again.

A job of the workflow tells the launcher. In a notebook that a person executes, one line below the
cell says how far it is, and is gone when the cell ends: what is stored never depends on the clock.
"""

import os
import sys
import time
from contextlib import suppress
from datetime import datetime

PATIENCE = 2.0  # seconds that a cell may work without saying so


class Timer:
    """Wall seconds since it was made."""

    def __init__(self):
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far, to a tenth."""
        return round(time.monotonic() - self.start, 1)


def say(words: str) -> None:
    """Add a line, with the time of day, to the file named by VD_PROGRESS, as the launcher shows it.

    Nothing is printed, so an executed notebook holds results and no clock times. Without that file,
    or where it cannot be written, nothing is said.
    """
    if "VD_PROGRESS" in os.environ:
        # Opened anew for each line and appended to: jobs that run at once share the file.
        with suppress(OSError), open(os.environ["VD_PROGRESS"], "a", encoding="utf-8") as log:
            log.write(f"{datetime.now():%H:%M:%S}  {words}\n")


class Line:
    """One line below the cell that works, from `PATIENCE` seconds on until the cell ends.

    Where nobody looks, outside a kernel, in a job of the workflow or in a test, it shows nothing.
    """

    def __init__(self):
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        there = hasattr(shell, "kernel") and "VD_PROGRESS" not in os.environ
        self.shell, self.start, self.handle = shell if there else None, time.monotonic(), None

    def __call__(self, words: str) -> None:
        """Show these words in place of the last ones."""
        if self.shell is None or time.monotonic() - self.start < PATIENCE:
            return
        shown = {"text/plain": words}
        if self.handle:
            self.handle.update(shown, raw=True)
            return
        # Begun and ended with nothing, since nbval and those who keep notebooks may know the first
        # content alone, or the last.
        self.handle = sys.modules["IPython"].display.display({}, raw=True, display_id=True)
        self.handle.update(shown, raw=True)
        self.shell.events.register("post_run_cell", self.clear)

    def clear(self, *_) -> None:
        """Show nothing any more."""
        if self.handle:
            self.handle.update({}, raw=True)
            self.handle = None
            self.shell.events.unregister("post_run_cell", self.clear)


class Progress:
    """Progress of one stage of one run: a line to the launcher at most every `every` seconds, and
    one below the cell twice a second.
    """

    def __init__(self, stage: str, run_id: str, total: int, every: float = 10.0):
        self.stage, self.run_id, self.total, self.every = stage, run_id, total, every
        self.start = self.last = self.shown = time.monotonic()
        self.first, self.line = 0, Line()

    def resume(self, done: int) -> None:
        """Start counting from `done` units, for a stage that continues an interrupted one."""
        self.first = done

    def __call__(self, done: int, note: str = "") -> None:
        """Report `done` of `total` units."""
        now = time.monotonic()
        # by the pace of this process, without the units that were done before it began
        pace = max(done - self.first, 1) / max(now - self.start, 1e-9)
        units = f"{done}/{self.total}  about {(self.total - done) / pace:.0f} s left"
        words = f"{self.stage:<6} {self.run_id}  {units}  {note}".rstrip()
        if now - self.shown >= 0.5:
            self.shown = now
            self.line(f"{words}  ({pace:.3g} a second)")
        if done >= self.total:
            self.line.clear()
        if now - self.last >= self.every or done >= self.total:
            self.last = now
            say(words)
