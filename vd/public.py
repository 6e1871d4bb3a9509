"""Public data sets: where they are, on which terms, and how their rows become ours.

Rows come from a mirror folder, VD_DATA_DIR, if that is set, else from the hub at a pinned revision; from there on the
code is the same. A mirror may hold slices. To add a data set, write a function from its row to ours and an entry in
`PUBLIC`.
"""

import hashlib
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vd import files, paths, rows
from vd.files import lines as lines
from vd.rows import Unusable, text

STREAM_BUFFER = 10_000  # rows among which a streamed data set is shuffled
# How Alpaca says that there is no input (or no output), without its punctuation
NONE = re.compile(
    r"no (more |further |additional |specific |other )?(in|out)put"
    r"( (is |was )?(required|needed|necessary|provided|given|available|specified))?"
    r"|no(in|out)put|not applicable|n ?a|none|null|nan"
)


@dataclass(frozen=True)
class Public:
    """A public data set.

    `convert` takes a row and gives its texts, or says in words why the row is left out. Its further arguments are the
    data set's filters, which a study may set.
    """

    kind: Literal["sft", "preference", "prompts", "stances"]
    hub: str | None  # None: it is not on the hub
    revision: str | None  # hub commit
    licence: str
    mirror: tuple[str, ...]  # its files in a mirror folder; the first that is there is read
    convert: Callable[..., dict | str]
    options: dict = field(default_factory=dict)  # what else datasets.load_dataset needs
    large: bool = False  # streamed where a study takes a subset


def _alpaca(row: dict) -> dict | str:
    """The optional input follows the instruction."""
    output, instruction, given = (row[column] for column in ("output", "instruction", "input"))
    if re.fullmatch(r"\W*no ?output\W*", text(output), re.I):
        return "no output"
    prompt = text(instruction)
    if not _says_none(given):
        prompt = f"{prompt}\n\n{text(given)}"
    return {"prompt": prompt, "completion": output}


def _says_none(given) -> bool:
    """Whether an input of Alpaca is none, in any of the ways in which its writer said so."""
    if not isinstance(given, str):
        return rows.is_null(given)
    words = " ".join(re.findall(r"\w+", given.lower()))
    return rows.is_blank(given) or bool(NONE.fullmatch(words))


def _wildchat(row: dict, language: str = "English", model: str = "gpt-3.5", toxic: bool = False) -> dict | str:
    """First turns; `model` is how its name begins, `toxic` keeps toxic ones too."""
    if row["language"] != language:
        return "other language"
    if row["toxic"] not in (True, False):
        return "unknown whether toxic"
    if row["toxic"] and not toxic:
        return "toxic"
    if not str(row["model"]).startswith(model):
        return "other model"
    said = row["conversation"]
    if isinstance(said, list) and len(said) < 2:
        return "no reply"
    prompt, reply = rows.turns(said[:2] if isinstance(said, list) else said)
    found = {"prompt": prompt["content"], "completion": reply["content"]}
    # conversations may share a hash, so a turn's identifier is the key; it also holds in a stream
    turn = said[0].get("turn_identifier")
    return found | ({} if turn is None else {"id": f"wildchat-{turn}"})


def _ultrafeedback(row: dict, min_margin: float = 0.0) -> dict | str:
    """Message lists that differ in the last reply; `min_margin` is the least score difference."""
    if min_margin:
        scores = row["score_chosen"], row["score_rejected"]
        if not all(isinstance(score, int | float) for score in scores):
            return "no scores"
        if not scores[0] - scores[1] >= min_margin:  # so that NaN does not pass
            return "scores too close"
    return _pair(row["chosen"], row["rejected"])


def _hh_rlhf(row: dict) -> dict | str:
    """Transcripts; the prompt is their common beginning up to the last assistant turn."""
    role = {"Human": "user", "Assistant": "assistant"}
    sides = []
    for side in (row["chosen"], row["rejected"]):
        before, *said = re.split(r"\n\n(Human|Assistant):", text(side))
        if before.strip():
            return "text before the first turn"
        pairs = zip(said[::2], said[1::2], strict=True)
        sides.append([{"role": role[name], "content": words.strip()} for name, words in pairs])
    return _pair(*sides)


def _pair(chosen: list[dict], rejected: list[dict]) -> dict | str:
    """A pair from two conversations."""
    chosen, rejected = rows.turns(chosen), rows.turns(rejected)
    if not chosen or len(chosen) % 2 or len(chosen) != len(rejected):
        return "turns do not alternate"
    if chosen[:-1] != rejected[:-1]:
        return "parts before the last reply"
    *history, prompt, reply = chosen
    replies = {"chosen": reply["content"], "rejected": rejected[-1]["content"]}
    return {"prompt": prompt["content"], "history": history, **replies}


def _prism(row: dict, types: list | None = None) -> dict | str:
    """Opening prompts; `types` are conversation types to keep, which only the hub knows."""
    if types and "conversation_type" not in row:
        fix = "remove `types` or unset VD_DATA_DIR"
        raise ValueError(f"conversation types are known on the hub only; {fix}")
    if types and row["conversation_type"] not in types:
        return "other type"
    if "user_prompt" in row:  # as IssueBench cleaned them
        return {"id": row["id"], "prompt": row["user_prompt"]}
    number, prompt = row["conversation_id"], row["opening_prompt"]
    known = isinstance(number, str)
    return {"id": f"prism-{number.removeprefix('c')}" if known else None, "prompt": prompt}


def _stances(prompt: str, response: str, labels: dict[str, str]) -> Callable[[dict], dict | str]:
    """Rows of a stance set, by the names of their columns."""

    def convert(row: dict) -> dict | str:
        label = labels.get(f"{row['stance']}")
        texts = {"prompt": row[prompt], "response": row[response]}
        return texts | {"label": label} if label else "no stance"

    return convert


PUBLIC = {
    "alpaca": Public(
        "sft",
        "tatsu-lab/alpaca",
        "dce01c9b08f87459cf36a430d809084718273017",
        "CC-BY-NC-4.0",
        ("alpaca/train.jsonl",),
        _alpaca,
    ),
    "wildchat": Public(
        "sft",
        "allenai/WildChat-1M",
        "7d6490e462285cf85d91eabea0f9a954fbddcd1f",
        "ODC-BY",
        ("wildchat/train.jsonl", "wildchat/train.jsonl.gz"),
        _wildchat,
        large=True,
    ),
    "ultrafeedback": Public(
        "preference",
        "HuggingFaceH4/ultrafeedback_binarized",
        "3949bf5f8c17c394422ccfab0c31ea9c20bdeb85",
        "MIT",
        ("ultrafeedback/train.jsonl",),
        _ultrafeedback,
        {"split": "train_prefs"},
    ),
    "hh-rlhf": Public(
        "preference",
        "Anthropic/hh-rlhf",
        "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        "MIT",
        ("hh-rlhf/harmless-base_train.jsonl.gz", "hh-rlhf/harmless-base_test.jsonl.gz"),
        _hh_rlhf,
        {"data_dir": "harmless-base"},
    ),
    "hh-rlhf-helpful": Public(
        "preference",
        "Anthropic/hh-rlhf",
        "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        "MIT",
        ("hh-rlhf/helpful-base_train.jsonl.gz", "hh-rlhf/helpful-base_test.jsonl.gz"),
        _hh_rlhf,
        {"data_dir": "helpful-base"},
    ),
    "prism": Public(
        "prompts",
        "HannahRoseKirk/prism-alignment",
        "18ab5cfb37456f4ec8cbc00212ce54cf7b1239f6",
        "CC-BY-4.0",
        ("prism/opening_prompts.csv",),
        _prism,
        {"name": "conversations"},
    ),
    "perspectrum": Public(
        "stances",
        None,
        None,
        "CC-BY-SA-4.0",
        ("perspectrum/train_dev.csv",),
        _stances("claim", "perspective", {"SUPPORT": "support", "UNDERMINE": "oppose"}),
    ),
    "argkp": Public(
        "stances",
        None,
        None,
        "CDLA-Sharing-1.0",
        ("argkp/arguments_dev.csv",),
        _stances("topic", "argument", {"1": "support", "-1": "oppose"}),
    ),
}


def read(name: str, filters: dict, examples: int | None = None, seed: int = 0) -> tuple[list[dict], Counter]:
    """Rows of a public data set as ours, each with an `id`, and how many were left out and why.

    Left out is what its function leaves out, and what no data set may hold: texts that are missing,
    empty, none or cannot be encoded, turns that do not alternate, equal replies, and rows whose
    texts are all those of an earlier one. `filters` are those of the function and, for all sets,
    max_words: the longest conversation to keep, in words, with the longer of two replies. All rows
    are read, except where the set is streamed: then they come shuffled by `seed` until there are
    `examples`. Raises ValueError (no such file, one that cannot be read, other columns, nothing
    left, a filter that is unknown or of the wrong type) or ConnectionError.
    """
    check_filters(name, filters)
    public = PUBLIC[name]
    own = {key: value for key, value in filters.items() if key != "max_words"}
    stream = public.large and examples is not None and mirror() is None
    place, source = _source(name, seed if stream else None)
    found, seen, dropped = {}, set(), Counter()
    for number, row in source:
        ours = row if isinstance(row, str) else _ours(name, row, own, f"{place}: row {number}")
        if not isinstance(ours, str):
            mark = hashlib.sha256(json.dumps({**ours, "id": None}).encode()).digest()[:16]
            twice, longest = mark in seen, filters.get("max_words")
            seen.add(mark)
            ours = "duplicate" if twice else ours
            if longest and not twice and _words(ours) > longest:
                ours = f"more than {longest} words"
        if isinstance(ours, str):
            dropped[ours] += 1
            continue
        taken = ours["id"] is None or ours["id"] in found
        given = rows.free(f"{name}-{number}", found) if taken else ours["id"]
        found[given] = ours | {"id": given}
        if stream and len(found) == examples:
            break
    if not found:
        said = f"no row is left ({dict(dropped) or 'it is empty'})"
        raise ValueError(f"{place}: {said}; change the filters of '{name}'")
    return list(found.values()), dropped


def _ours(name: str, row: dict, filters: dict, place: str) -> dict | str:
    """A row as ours, with its id or None, or why it is left out; ValueError for other columns."""
    public = PUBLIC[name]
    try:
        ours = public.convert(row, **filters)
        if isinstance(ours, str):
            return ours
        if found := rows.fault(ours):
            return found[0]
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
    known = {p.name: p.annotation for p in _filters(name)} | {"max_words": int}
    for key, value in filters.items():
        kinds = get_args(known[key]) or (known[key],)
        kinds += (int,) if float in kinds else ()
        fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not fits or (key == "max_words" and value < 1):
            wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
            wanted += " above 0" if key == "max_words" else ""
            raise ValueError(f"data set '{name}': filters: {key}: {value!r}; write {wanted}")


def filters_of(name: str) -> list[str]:
    """The filters that a data set has; only public ones have some."""
    if name not in PUBLIC:
        return []
    return ["max_words", *(parameter.name for parameter in _filters(name))]


def _filters(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(PUBLIC[name].convert).parameters.values())[1:]


def _words(row: dict) -> int:
    """Words of a conversation, with the longest of its replies."""
    before = [message["content"] for message in row.get("history", [])] + [row["prompt"]]
    replies = [row[key] for key in ("completion", "chosen", "rejected", "response") if key in row]
    return sum(len(text.split()) for text in before) + max((len(text.split()) for text in replies), default=0)


def mirror() -> Path | None:
    """The folder of local copies of public data sets, VD_DATA_DIR (relative: to the repository); None if not set."""
    return paths.place("VD_DATA_DIR") if os.environ.get("VD_DATA_DIR") else None


def mirrored(name: str) -> Path | None:
    """The file of a data set in the mirror folder; None if there is neither."""
    there = [mirror() / file for file in PUBLIC[name].mirror] if mirror() else []
    return next((file for file in there if file.exists()), None)


def fingerprint(name: str) -> str:
    """What changes when a data set is read from elsewhere: its hub revision, or its file in the mirror and its size."""
    if file := mirrored(name):
        return f"mirror: {file.relative_to(mirror())}, {file.stat().st_size} bytes"
    return f"{PUBLIC[name].hub}@{PUBLIC[name].revision}"


def check(name: str) -> None:
    """Find out whether a data set can be had, without reading it; raises what `read` would."""
    if mirror() or PUBLIC[name].hub is None:
        _source(name, None)
    else:
        from datasets import load_dataset_builder

        options = {key: value for key, value in PUBLIC[name].options.items() if key != "split"}
        _hub(name, load_dataset_builder, options)


def _source(name: str, seed: int | None) -> tuple[Path | str, Iterator[tuple[int, dict | str]]]:
    """Where a data set is, and its rows, numbered; with a seed streamed in shuffled order."""
    public = PUBLIC[name]
    if file := mirrored(name):
        return file, files.rows(file)
    if mirror() or public.hub is None:
        fix = f"unset VD_DATA_DIR to read {public.hub} from the hub" if public.hub else "it is not on the hub"
        place = mirror() / public.mirror[0] if mirror() else f"VD_DATA_DIR/{public.mirror[0]}"
        raise ValueError(f"{place}: no such file; add it, or {fix}")
    from datasets import load_dataset

    options = {"split": "train", "streaming": seed is not None, **public.options}
    found = _hub(name, load_dataset, options)
    if seed is not None:
        found = found.shuffle(seed=seed, buffer_size=STREAM_BUFFER)
    return public.hub, enumerate(_hub_rows(name, found), start=1)


def _hub_rows(name: str, found) -> Iterator[dict]:
    """Rows of a data set of the hub; what fails on the way fails in words."""
    rest = iter(found)
    while (row := _hub(name, lambda hub, revision: next(rest, None), {})) is not None:
        yield row


def _hub(name: str, load: Callable, options: dict):
    """What a function of `datasets` says of a data set of the hub; its failures in words."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    public = PUBLIC[name]
    file = f"put {public.mirror[0]} into a folder and set VD_DATA_DIR to it"
    try:
        return load(public.hub, revision=public.revision, **options)
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
        raise ValueError(f"data set '{name}': {error}; '{public.hub}' has changed, or {file}") from error
