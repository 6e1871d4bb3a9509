"""`extends: pocket` takes over another study's keys, so that studies that must agree cannot drift
apart.

Sections that are maps are merged: an entry of the extending file replaces the whole entry of the
same name (in `probing`, `judge`, `bootstrap` and `vprism` an entry is a single key), a new one
comes after those taken over, and `null` removes one. Everything else is replaced as a whole. The
study that is extended may itself extend another one.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from vd.study.file import StudyError, find, shown, study_error, word
from vd.study.reading import read

KEY = "extends"
MERGED = {
    *("models", "sft", "preference", "scorers", "recipes", "evaluations", "ablations", "findings"),
    *("probing", "judge", "bootstrap", "vprism"),
}


def expand(path: Path, content: dict) -> dict:
    """The keys of a study's file, with those that it takes over and without `extends`.

    Raises StudyError where the other study is not there, or where studies extend each other in a
    circle.
    """
    merged = {}
    # from the file that extends none to the study's own, which has the last word
    for _, own in reversed(list(_chain(path, content))):
        merged = _merge(merged, own)
    merged.pop(KEY, None)
    return merged


def located(path: Path, mistakes: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Mistakes (key, what), the key followed by the file that holds it where that is another.

    A mistake stays one of the extending file: the other may be right by itself.
    """
    # read again, since the merged content does not say which file wrote what
    chain = list(_chain(path, read(path)))
    for key, what in mistakes:
        holder = next((file for file, content in chain if _holds(content, key)), path)
        yield (key if holder == path else f"{key} (in {holder.name})"), what


def _chain(path: Path, content: dict) -> Iterator[tuple[Path, dict]]:
    """Files and what they say, from the extending one to the one that extends none."""
    seen = [path]
    yield path, content
    while KEY in content:
        path = _base(path, content[KEY])
        if path in seen:
            circle = " -> ".join(file.stem for file in [*seen, path])
            raise study_error(seen[-1], [(KEY, f"studies in a circle, {circle}; remove one")])
        seen.append(path)
        content = read(path)
        yield path, content


def _base(path: Path, name: object) -> Path:
    if not isinstance(name, str):
        why = f"{shown(name)} is no name of a study; write one, such as pocket"
        raise study_error(path, [(KEY, why)])
    try:
        return find(name)
    except StudyError as error:
        # told of the key `extends`, which is where to correct it
        raise study_error(path, [(KEY, str(error))]) from None


def _merge(base: dict, own: dict, depth: int = 1) -> dict:
    """Entries of `base` replaced, removed and followed by those of `own`."""
    merged = dict(base)
    for key, value in own.items():
        if value is None and key in base:
            del merged[key]
        elif (
            depth and key in MERGED and isinstance(value, dict) and isinstance(base.get(key), dict)
        ):
            merged[key] = _merge(base[key], value, depth - 1)
        else:
            # a null that removes nothing stays, and is refused like any other empty value
            merged[key] = value
    return merged


def _holds(content: dict, key: str) -> bool:
    """Whether a file writes a key such as `sft.sft-neutral.steps`, or the entry around it."""
    section, _, rest = key.partition(".")
    own = content.get(section)
    if not rest or section not in MERGED or not isinstance(own, dict):
        return section in content
    # Names may hold dots, as ppo-kl-0.5 does, so a key cannot be split at them. The dot at the end
    # keeps `sft-a` from standing for `sft-ab`.
    return any(f"{rest}.".startswith(f"{word(str(name))}.") for name in own)
