"""Data sets that a study may name: our corpora, and public ones, which vd/data/public declares.

A file of vd/data/public holds

    KIND         what it is for: texts, pairs, prompts, stances or labels
    HUB          its name on the hub, None where it is not there; REVISION, a commit of the hub
    LICENCE      its terms
    MIRROR       its files in a mirror folder (VD_DATA_DIR); the first that is there is read
    BESIDE       a second file there, and the column by which its columns are added to the rows
    convert      a row in, its texts out, or the reason why the row is left out; further arguments
                 are the set's filters, which a study may set
    PARTS        other data sets of which it is made, in place of files of its own
    OPTIONS      what else `datasets.load_dataset` needs
    LARGE        whether it is streamed where a study takes a subset
    SIZE         rows of the whole set, and characters of a prompt and of a reply, on average: for
                 plans, which read nothing
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vd import plugins

EMBEDDED = {  # kinds of the embedded corpora: what a method READS, or what else they are for
    "topics": "topics",
    "probes": "probes",
    "sft_neutral": "texts",
    "sft_support": "texts",
    "sft_mixed": "texts",
    "value_gap": "pairs",
    "positions": "pairs",
    "low_gap": "pairs",
    "judge": "stances",
    "judge_labelled": "stances",
    "openers": "prompts",
    "assistant": "pairs",
    "assistant_judge": "pairs",
    "assistant_held_out": "pairs",
    "requests": "prompts",
    "red_team": "prompts",
    "questions": "prompts",
    "safety": "labels",
    "safety_labelled": "labels",
    "values": "labels",
    "value_instructions": "labels",
    "value_rewrites": "pairs",
    "value_rewrites_held_out": "pairs",
    "benevolence": "pairs",
    "entailment": "labels",
    "rewrites_checked": "labels",
    "prism_labels": "labels",
    "prism_sample": "labels",
}
ROOM = "data.public"


@dataclass(frozen=True)
class Public:
    """A public data set, as its file declares it."""

    kind: Literal["texts", "pairs", "prompts", "stances", "labels"]
    hub: str | None
    revision: str | None
    licence: str
    mirror: tuple[str, ...]
    convert: Callable[..., dict | str]
    options: dict
    large: bool
    size: tuple[int, int, int] | None
    parts: tuple[str, ...] = ()
    beside: tuple[str, str] | None = None


def declared(name: str) -> Public:
    """A public data set by its name; AttributeError if its file lacks what it needs."""
    file = plugins.load(ROOM, name)
    return Public(
        file.KIND,
        file.HUB,
        getattr(file, "REVISION", None),
        file.LICENCE,
        file.MIRROR,
        file.convert,
        getattr(file, "OPTIONS", {}),
        getattr(file, "LARGE", False),
        getattr(file, "SIZE", None),
        getattr(file, "PARTS", ()),
        getattr(file, "BESIDE", None),
    )


# All at once: their files import nothing heavy, and mistakes are told with all names.
PUBLIC = {name: declared(name) for name in plugins.names(ROOM)}


def filters_of(name: str) -> list[str]:
    """The filters that a data set has; only public ones have some."""
    return ["max_words", *(filter.name for filter in own_filters(name))] if name in PUBLIC else []


def own_filters(name: str) -> list[inspect.Parameter]:
    """The filters that a public data set has of its own, as its function declares them."""
    # without the first parameter, which is the row
    return list(inspect.signature(PUBLIC[name].convert).parameters.values())[1:]
