"""Rows of public data sets, from a mirror folder or from the hub, as ours.

The mirror folder is VD_DATA_DIR, if that is set; else rows come from the hub at a pinned revision.
From there on the code is the same. A mirror may hold slices.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from vd import paths
from vd.data import rows
from vd.data.rows import Unusable
from vd.store import formats
from vd.store.files import read_json, write_json
from vd.study.catalogue import PUBLIC, filters_of, own_filters

STREAM_BUFFER = 10_000  # rows among which a streamed data set is shuffled


def read_public(
    name: str, filters: dict, examples: int | None = None, seed: int = 0
) -> tuple[list[dict], Counter]:
    """Rows of a public data set as ours, each with an `id`, and how many were left out and why.

    Left out is what its function leaves out, and what no data set may hold: texts that are missing,
    empty, none or cannot be encoded, turns that do not alternate, equal replies, and rows whose
    texts are all those of an earlier one, of the same part where a set has parts. `filters` are
    those of the function and, for all sets, max_words: the longest conversation to keep, in words,
    with the longer of two replies. All rows are read, except where the set is streamed: then they
    come shuffled by `seed` until there are `examples`. Raises ValueError (no such file, one that
    cannot be read, other columns, nothing left, a filter that is unknown or of the wrong type) or
    ConnectionError.
    """
    check_filters(name, filters)
    public = PUBLIC[name]
    if public.parts:
        parts = [read_public(part, filters, examples, seed) for part in public.parts]
        dropped = sum((left_out for _, left_out in parts), Counter())
        return [row for found, _ in parts for row in found], dropped
    # max_words is heeded here, the others by the set's function
    own = {key: value for key, value in filters.items() if key != "max_words"}
    # a mirror is read whole, whatever the set
    stream = public.large and examples is not None and mirror() is None
    if stream and (kept := _kept(name, filters, examples, seed)).exists():
        content = read_json(kept)
        return content["rows"], Counter(content["dropped"])
    place, source = _source(name, seed if stream else None)
    found, seen, dropped = {}, set(), Counter()
    for number, row in source:
        # a text in place of a row says why it is left out, here and below
        ours = row if isinstance(row, str) else _ours(name, row, own, f"{place}: row {number}")
        if not isinstance(ours, str):
            # 16 bytes instead of the text: a public set may have a million rows.
            mark = hashlib.sha256(json.dumps({**ours, "id": None}).encode()).digest()[:16]
            twice, longest = mark in seen, filters.get("max_words")
            seen.add(mark)
            ours = "duplicate" if twice else ours
            if longest and not twice and _words(ours) > longest:
                ours = f"more than {longest} words"
        if isinstance(ours, str):
            dropped[ours] += 1
            continue
        # Ids of others are missing or double now and then; the row is as good as any.
        taken = ours["id"] is None or ours["id"] in found
        given = rows.free_name(f"{name}-{number}", found) if taken else ours["id"]
        found[given] = ours | {"id": given}
        if stream and len(found) == examples:
            break
    if not found:
        said = f"no row is left ({dict(dropped) or 'it is empty'})"
        raise ValueError(f"{place}: {said}; change the filters of '{name}'")
    return list(found.values()), dropped


def keep(name: str, filters: dict, examples: int | None = None, seed: int = 0) -> None:
    """Read a data set once, so that `read_public` needs no network for it from then on.

    What is read whole `datasets` keeps by itself; a stream is kept here, as it was drawn.
    """
    for part in PUBLIC[name].parts:
        keep(part, filters, examples, seed)
    if PUBLIC[name].parts:
        return
    found, dropped = read_public(name, filters, examples, seed)
    kept = _kept(name, filters, examples, seed)
    if PUBLIC[name].large and examples is not None and mirror() is None and not kept.exists():
        write_json({"rows": found, "dropped": dropped}, kept)


def _kept(name: str, filters: dict, examples: int | None, seed: int) -> Path:
    """Where the rows of a stream are kept, by all that they depend on."""
    asked = [PUBLIC[name].hub, PUBLIC[name].revision, filters, examples, seed]
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    return paths.cache() / "data" / f"{name}-{key}.json"


def _ours(name: str, row: dict, filters: dict, place: str) -> dict | str:
    """A row as ours, with its id or None, or why it is left out; ValueError for other columns."""
    public = PUBLIC[name]
    try:
        ours = public.convert(row, **filters)
        if isinstance(ours, str):
            return ours
        if found := rows.find_fault(ours):
            return found[0]
    # before the others, being a ValueError itself
    except Unusable as error:
        return str(error)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        no_key = isinstance(error, KeyError)
        what = f"no key {error}" if no_key else f"{type(error).__name__}: {error}"
        revision = f" at revision {public.revision[:8]}" if public.revision else ""
        expected = f"'{name}' expects the rows of {public.hub or public.mirror[0]}{revision}"
        raise ValueError(f"{place}: {what}; {expected}") from None
    try:
        return {"id": rows.name(ours.get("id")), **{k: v for k, v in ours.items() if k != "id"}}
    except Unusable:  # an id that no table should hold is as good as none
        return ours | {"id": None}


def check_filters(name: str, filters: dict) -> None:
    """Raise ValueError if a data set has no such filter, or one of another type."""
    if unknown := set(filters) - set(filters_of(name)):
        known = filters_of(name)
        raise ValueError(f"data set '{name}': filters: {sorted(unknown)} are not among {known}")
    known = {p.name: p.annotation for p in own_filters(name)} | {"max_words": int}
    for key, value in filters.items():
        kinds = get_args(known[key]) or (known[key],)
        # 1 may stand for 1.0; true is no number, although Python counts bool as an int
        kinds += (int,) if float in kinds else ()
        fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not fits or (key == "max_words" and value < 1):
            wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
            wanted += " above 0" if key == "max_words" else ""
            raise ValueError(f"data set '{name}': filters: {key}: {value!r}; write {wanted}")


def _words(row: dict) -> int:
    """Words of a conversation, with the longest of its replies."""
    before = [message["content"] for message in row.get("history", [])] + [row["prompt"]]
    replies = [row[key] for key in ("completion", "chosen", "rejected", "response") if key in row]
    return sum(len(text.split()) for text in before) + max(
        (len(text.split()) for text in replies), default=0
    )


def mirror() -> Path | None:
    """The mirror folder, VD_DATA_DIR, relative to the repository; None if it is not set."""
    return paths.place("VD_DATA_DIR") if os.environ.get("VD_DATA_DIR") else None


def mirrored(name: str) -> Path | None:
    """The file of a data set in the mirror folder; None if there is neither."""
    if not mirror() or name not in PUBLIC:
        return None
    if PUBLIC[name].parts:
        each = [mirrored(part) for part in PUBLIC[name].parts]
        return each[0] if all(each) else None
    there = [mirror() / file for file in PUBLIC[name].mirror]
    return next((file for file in there if file.exists()), None)


def fingerprint(name: str) -> str:
    """What changes when a data set is read from elsewhere.

    Its hub revision, or its file in the mirror and its size.
    """
    if PUBLIC[name].parts:
        return "; ".join(map(fingerprint, PUBLIC[name].parts))
    # A mirror may hold gigabytes: name and size tell slices apart, and reading would take minutes.
    if file := mirrored(name):
        return f"mirror: {file.relative_to(mirror())}, {file.stat().st_size} bytes"
    return f"{PUBLIC[name].hub}@{PUBLIC[name].revision}"


def check_source(name: str) -> None:
    """Find out whether a data set can be had, without reading it; raises as `read_public` does."""
    if PUBLIC[name].parts:
        for part in PUBLIC[name].parts:
            check_source(part)
    elif mirror() or PUBLIC[name].hub is None:
        _source(name, None)
    else:
        from datasets import load_dataset_builder

        # builders take no split
        options = {key: value for key, value in PUBLIC[name].options.items() if key != "split"}
        _hub(name, load_dataset_builder, options)


def _source(name: str, seed: int | None) -> tuple[Path | str, Iterator[tuple[int, dict | str]]]:
    """Where a data set is, and its rows, numbered; with a seed streamed in shuffled order."""
    public = PUBLIC[name]
    if file := mirrored(name):
        return file, _joined(file, public.beside) if public.beside else formats.rows(file)
    if mirror() or public.hub is None:
        fix = (
            f"unset VD_DATA_DIR to read {public.hub} from the hub"
            if public.hub
            else "it is not on the hub"
        )
        place = mirror() / public.mirror[0] if mirror() else f"VD_DATA_DIR/{public.mirror[0]}"
        raise ValueError(f"{place}: no such file; add it, or {fix}")
    from datasets import load_dataset

    options = {"split": "train", "streaming": seed is not None, **public.options}
    found = _hub(name, load_dataset, options)
    if seed is not None:
        found = found.shuffle(seed=seed, buffer_size=STREAM_BUFFER)
    return public.hub, enumerate(_hub_rows(name, found), start=1)


def _joined(file: Path, beside: tuple[str, str]) -> Iterator[tuple[int, dict | str]]:
    """Rows of a mirror's file with the columns of another one; what is not there is left out."""
    other, key = mirror() / beside[0], beside[1]
    if not other.exists():
        raise ValueError(f"{other}: no such file; add it, which {file.name} needs")
    more = {row[key]: row for row in formats.lines(other)}
    for number, row in formats.rows(file):
        if isinstance(row, dict):
            row = row | more[row[key]] if row.get(key) in more else f"not in {other.name}"
        yield number, row


def _hub_rows(name: str, found) -> Iterator[dict]:
    """Rows of a data set of the hub; what fails on the way fails in words."""
    rest = iter(found)
    # each row by way of _hub, since a stream may break at any; a row is a dict, so None is the end
    while (row := _hub(name, lambda hub, revision: next(rest, None), {})) is not None:
        yield row


def _hub(name: str, load: Callable, options: dict):
    """What a function of `datasets` says of a data set of the hub; its failures in words."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    public = PUBLIC[name]
    file = f"put {public.mirror[0]} into a folder and set VD_DATA_DIR to it"
    try:
        return load(public.hub, revision=public.revision, **options)
    # the narrowest first: it is an OSError as well
    except DatasetNotFoundError as error:
        page = f"https://huggingface.co/datasets/{public.hub}"
        gated = f"accept its terms at {page} and log in with `hf auth login`, or {file}"
        fix = gated if "gated" in str(error) else f"look for it at {page}, or {file}"
        raise ConnectionError(f"data set '{name}': {error}; {fix}") from error
    except OSError as error:
        raise ConnectionError(f"data set '{name}': {error}; go online, or {file}") from error
    except DatasetsError as error:  # such as one that was only half fetched
        raise ConnectionError(f"data set '{name}': {error}; fetch it anew, or {file}") from error
    except ValueError as error:  # an unknown split or configuration
        raise ValueError(
            f"data set '{name}': {error}; '{public.hub}' has changed, or {file}"
        ) from error
