"""How long a server asks to be left alone, in the headers of its responses, whatever they hold."""

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 3600.0  # seconds; who is asked to wait longer is told when to come back
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# ASCII, since \d would match digits of other scripts too
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|d|h|m|s))+", re.ASCII)
FARTHEST = 10 * 365 * 86400.0  # seconds; later dates may be none


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, in milliseconds, seconds or a date; 0 for none."""
    said = headers.get("retry-after", "").strip()
    # the finer one first; only some servers send it
    seconds = _number(headers.get("retry-after-ms", "")) / 1000
    if math.isnan(seconds):
        seconds = _number(said)
    if math.isnan(seconds):
        seconds = _until(said)
    # NaN is not above 0 either
    return seconds if seconds > 0 else 0.0


def until_renewal(headers: Mapping[str, str]) -> float:
    """Seconds until an exhausted rate limit is renewed; 0 if none is, or if that takes too long."""
    waits = [
        _duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0"
    ]
    # a limit by the day is renewed too late to sleep until; the next 429 will say so
    return max([wait for wait in waits if wait <= LONGEST_WAIT], default=0.0)


def moment(seconds: float) -> str:
    """The date and time in that many seconds, of which more than ten years count as ten."""
    then = datetime.now() + timedelta(seconds=min(seconds, FARTHEST))
    return f"{then:%Y-%m-%d %H:%M}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _until(date: str) -> float:
    try:
        # clocks may differ, and a date that has passed means now
        return parsedate_to_datetime(date).timestamp() - time.time()
    # what is no date is a ValueError, a year that no clock holds an OverflowError
    except (ValueError, OverflowError, TypeError, IndexError):
        return math.nan


def _duration(text: str) -> float:
    """Seconds of a duration such as 6m0s, 1.5s, 20ms or 3; 1 if it is written otherwise."""
    text = text.strip()
    if DURATION.fullmatch(text):
        parts = re.findall(r"([\d.]+)(ms|d|h|m|s)", text)
        return sum(float(number) * UNITS[unit] for number, unit in parts)
    seconds = _number(text)
    # NaN, or a point in time: the limit is renewed soon, but it is not said when
    return seconds if seconds >= 0 else 1.0
