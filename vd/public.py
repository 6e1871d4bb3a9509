"""Public data sets: where they are, on which terms, and how their rows become ours.

Rows come from a mirror folder, VD_DATA_DIR, if that is set, else from the hub at a pinned revision; from there on the
code is the same. A mirror may hold slices. To add a data set, write a function from its row to ours and an entry in
`PUBLIC`.
"""

import csv
import gzip
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vd import paths

STREAM_BUFFER = 10_000  # rows among which a streamed data set is shuffled


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
    if not row["output"].strip():
        return "empty reply"
    prompt = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return {"prompt": prompt, "completion": row["output"]}


def _wildchat(row: dict, language: str = "English", model: str = "gpt-3.5", toxic: bool = False) -> dict | str:
    """First turns; `model` is how its name begins, `toxic` keeps toxic ones too."""
    if row["language"] != language:
        return "other language"
    if row["toxic"] and not toxic:
        return "toxic"
    if not row["model"].startswith(model):
        return "other model"
    first, *rest = row["conversation"]
    if not rest or not first["content"].strip() or not rest[0]["content"].strip():
        return "no reply"
    found = {"prompt": first["content"], "completion": rest[0]["content"]}
    # conversations may share a hash, so a turn's identifier is the key; it also holds in a shuffled stream
    return found | ({"id": f"wildchat-{first['turn_identifier']}"} if "turn_identifier" in first else {})


def _ultrafeedback(row: dict, min_margin: float = 0.0) -> dict | str:
    """Message lists that differ in the last reply; `min_margin` is the least difference of their scores."""
    if min_margin and row["score_chosen"] - row["score_rejected"] < min_margin:
        return "scores too close"
    return _pair(row["chosen"], row["rejected"])


def _hh_rlhf(row: dict) -> dict | str:
    """Transcripts; the prompt is their common beginning up to the last assistant turn."""
    role = {"Human": "user", "Assistant": "assistant"}
    sides = []
    for side in ("chosen", "rejected"):
        _, *turns = re.split(r"\n\n(Human|Assistant):", row[side])
        sides.append(
            [{"role": role[r], "content": text.strip()} for r, text in zip(turns[::2], turns[1::2], strict=True)]
        )
    return _pair(*sides)


def _pair(chosen: list[dict], rejected: list[dict]) -> dict | str:
    """A pair from two conversations."""
    roles = ["user", "assistant"] * (len(chosen) // 2)
    if not roles or any([message["role"] for message in side] != roles for side in (chosen, rejected)):
        return "turns do not alternate"
    if chosen[:-1] != rejected[:-1]:
        return "parts before the last reply"
    if not all(message["content"].strip() for message in [*chosen, rejected[-1]]):
        return "empty turn"
    if chosen[-1]["content"] == rejected[-1]["content"]:
        return "equal replies"
    *history, prompt, reply = chosen
    replies = {"chosen": reply["content"], "rejected": rejected[-1]["content"]}
    return {"prompt": prompt["content"], "history": history, **replies}


def _prism(row: dict, types: list | None = None) -> dict | str:
    """Opening prompts; `types` are conversation types to keep, such as "values guided" (the hub knows them)."""
    if types and "conversation_type" not in row:
        raise ValueError("conversation types are known on the hub only; remove `types` or unset VD_DATA_DIR")
    if types and row["conversation_type"] not in types:
        return "other type"
    if "user_prompt" in row:  # as IssueBench cleaned them
        return {"id": row["id"], "prompt": row["user_prompt"]}
    return {"id": f"prism-{row['conversation_id'].removeprefix('c')}", "prompt": row["opening_prompt"]}


def _stances(prompt: str, response: str, labels: dict[str, str]) -> Callable[[dict], dict | str]:
    """Rows of a stance set, by the names of their columns."""

    def convert(row: dict) -> dict | str:
        label = labels.get(row["stance"])
        return {"prompt": row[prompt], "response": row[response], "label": label} if label else "no stance"

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
    """Rows of a public data set as ours, each with an `id`, and how many were left out for which reason.

    `filters` are those of the data set's function and, for all of them, max_words: the longest conversation to keep, in
    words, with the longer of two replies. All rows are read, except where the data set is streamed: then rows come
    shuffled by `seed` until there are `examples`. Raises ValueError (no such file, other columns, nothing left, unknown
    filter) or ConnectionError.
    """
    public = PUBLIC[name]
    if unknown := set(filters) - set(filters_of(name)):
        raise ValueError(f"data set '{name}': filters: {sorted(unknown)} are not among {filters_of(name)}")
    filters = dict(filters)
    max_words = filters.pop("max_words", None)
    stream = public.large and examples is not None and mirror() is None
    place, source = _source(name, seed if stream else None)
    rows, dropped = [], Counter()
    for number, row in enumerate(source, start=1):
        try:
            ours = public.convert(row, **filters)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"no key {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{place}: row {number}: {what}; '{name}' expects the rows of {public.hub or public.mirror[0]}"
                f"{f' at revision {public.revision[:8]}' if public.revision else ''}"
            ) from None
        if not isinstance(ours, str) and max_words and _words(ours) > max_words:
            ours = f"more than {max_words} words"
        if isinstance(ours, str):
            dropped[ours] += 1
            continue
        rows.append({"id": f"{name}-{number}", **ours})
        if stream and len(rows) == examples:
            break
    if not rows:
        raise ValueError(f"{place}: no row is left ({dict(dropped) or 'it is empty'}); change the filters of '{name}'")
    return rows, dropped


def filters_of(name: str) -> list[str]:
    """The filters that a data set has; only public ones have some."""
    if name not in PUBLIC:
        return []
    return ["max_words", *(p for p in inspect.signature(PUBLIC[name].convert).parameters if p != "row")]


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
    files = [mirror() / file for file in PUBLIC[name].mirror] if mirror() else []
    return next((file for file in files if file.exists()), None)


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


def lines(file: Path) -> Iterator[dict]:
    """Rows of a .jsonl, .jsonl.gz or .csv file."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8", newline="") as text:
        if file.suffix == ".csv":
            yield from csv.DictReader(text)
            return
        for number, line in enumerate(text, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}: row {number}: not JSON ({error}); correct or remove it") from None


def _source(name: str, seed: int | None) -> tuple[Path | str, Iterable[dict]]:
    """Where the rows of a data set are, and the rows; with a seed they are streamed in shuffled order."""
    public = PUBLIC[name]
    if file := mirrored(name):
        return file, lines(file)
    if mirror() or public.hub is None:
        fix = f"unset VD_DATA_DIR to read {public.hub} from the hub" if public.hub else "it is not on the hub"
        place = mirror() / public.mirror[0] if mirror() else f"VD_DATA_DIR/{public.mirror[0]}"
        raise ValueError(f"{place}: no such file; add it, or {fix}")
    from datasets import load_dataset

    options = {"split": "train", "streaming": seed is not None, **public.options}
    rows = _hub(name, load_dataset, options)
    return public.hub, rows if seed is None else rows.shuffle(seed=seed, buffer_size=STREAM_BUFFER)


def _hub(name: str, load: Callable, options: dict):
    """What a function of `datasets` says of a data set of the hub; its failures in words."""
    from datasets.exceptions import DatasetNotFoundError

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
    except ValueError as error:  # an unknown split or configuration
        raise ValueError(f"data set '{name}': {error}; '{public.hub}' has changed, or {file}") from error
