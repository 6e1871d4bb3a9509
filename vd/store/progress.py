"""What is said while work goes on. No number depends on it, so changing it runs nothing again."""

import os
import time
from contextlib import suppress
from datetime import datetime


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


class Progress:
    """Progress of one stage of one run, one line at most every `every` seconds."""

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
        if now - self.last < self.every and done < self.total:
            return
        self.last = now
        # by the pace of this process, without the units that were done before it began
        left = (now - self.start) / max(done - self.first, 1) * (self.total - done)
        units = f"{done}/{self.total}  about {left:.0f} s left"
        say(f"{self.stage:<6} {self.run_id}  {units}  {note}".rstrip())
