"""The Batch API's files and listings, read: whatever is in them, what is of no use is left out.

A server's files are as untrusted as its answers (see vd.servers.answers): a line may be cut, a page
may be one of another service.
"""

import contextlib
from collections.abc import Iterator

from vd.servers import answers
from vd.servers.response import shorten

PAGE = 100  # batches that are listed at once


def objects(content: bytes) -> Iterator[dict]:
    """The objects of JSON lines, which end in line feeds only; what is none is left out."""
    # splitlines would also break lines at U+2028, which JSON allows within a text
    for line in content.split(b"\n"):
        with contextlib.suppress(answers.Unreadable):
            row = answers.parse(line)
            if isinstance(row, dict):
                yield row


def identified(body) -> dict:
    """What has an id, a batch or a file, in a response or an entry of a listing."""
    found = answers.parse(body) if isinstance(body, bytes) else body
    if not isinstance(found, dict) or not isinstance(found.get("id"), str) or not found["id"]:
        raise answers.Unreadable("it holds no batch or file")
    return found


def listing(body: bytes) -> tuple[list[dict], bool]:
    """What a page of a listing holds, and whether there are more pages."""
    found = answers.parse(body)
    if not isinstance(found, dict) or not isinstance(found.get("data"), list):
        raise answers.Unreadable("it holds no list of batches")
    # servers without has_more: a page that is full may not be the last
    whole = len(found["data"]) >= PAGE
    return [identified(entry) for entry in found["data"]], found.get("has_more", whole) is True


def responses(content: bytes) -> Iterator[tuple[str, object]]:
    """Key and response of every line of a batch's output that says which request it is about."""
    return ((row["custom_id"], row.get("response")) for row in objects(content) if is_named(row))


def is_named(row: dict) -> bool:
    """Whether a line says which request it is about."""
    return isinstance(row.get("custom_id"), str)


def faults(batch: dict) -> str:
    """Why a batch failed."""
    found = batch.get("errors")
    listed = found.get("data") if isinstance(found, dict) else found
    said = [shorten(answers.error_text(e)) for e in listed] if isinstance(listed, list) else []
    return "; ".join(said) or "it does not say why"
