"""The key to a server: where it comes from, to whom it may go, and that nobody else sees any of it.

It is taken from OPENAI_API_KEY and goes to base_url over https, or over http to this machine
itself; nowhere else.
"""

import ipaddress
import os
import re
from itertools import groupby
from urllib.parse import urlsplit

PART = 4  # characters of the key in an error that are taken for a part of it
LONG_PART = 12  # the same in what a model said, where four may be a word
SHORTEST = 8  # characters of a key that is looked for in what a model said


def find() -> str | None:
    """The key from the environment without white space around it; None if there is none."""
    return os.environ.get("OPENAI_API_KEY", "").strip() or None


def key_fault(base_url: str) -> str | None:
    """Why the key cannot be used with this server, and what to do; None if it can."""
    key = find()
    if key is None:
        # in lower case and without the port, however the address is written
        if urlsplit(base_url).hostname != "api.openai.com":
            return None
        return "set the environment variable OPENAI_API_KEY, or base_url to another server"
    if not re.fullmatch(r"[!-~]+", key):
        return "OPENAI_API_KEY holds white space or characters that no key has; copy it again"
    if len(key) >= SHORTEST and key in base_url:
        return "base_url holds the key, and it is written into tables; leave it to OPENAI_API_KEY"
    return None


def for_server(base_url: str) -> str:
    """The key as this server gets it; "none" (clients insist on one) if there is none for it."""
    return (may_have_it(base_url) and find()) or "none"


def may_have_it(base_url: str) -> bool:
    """Whether nobody on the way to this server can read the key."""
    return urlsplit(base_url).scheme == "https" or is_here(base_url)


def is_here(base_url: str) -> bool:
    """Whether a server is on this machine: no proxy is needed, and nobody listens."""
    # a dot at the end makes a name absolute: localhost. is localhost
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # ::ffff:127.0.0.1 is this machine as well
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def blank(text: str, part: int = PART) -> str:
    """A text with *** for every run of at least `part` characters that is also in the key.

    Keys as short as words (none, EMPTY) are no secrets, and texts hold words; they are left alone.
    """
    # in any case, since servers quote keys in capitals as well
    key, low = (find() or "").lower(), text.lower()
    size = min(part, len(key))
    if len(key) < (PART if part == PART else SHORTEST) or len(text) < size:
        return text
    # positions in `low` must be positions in `text`
    low = low if len(low) == len(text) else text  # a few letters become two
    # servers quote a key with its middle left out, so parts are looked for
    parts = {key[n : n + size] for n in range(len(key) - size + 1)}
    starts = [n for n in range(len(low) - size + 1) if low[n : n + size] in parts]
    hidden = {n for start in starts for n in range(start, start + size)}
    runs = groupby(range(len(text)), hidden.__contains__)
    shown = ("***" if hide else "".join(text[n] for n in run) for hide, run in runs)
    return "".join(shown) if hidden else text
