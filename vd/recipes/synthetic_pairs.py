"""Synthetic value-gap pairs: a teacher writes both sides of a question, a judge checks that it did.

The paper had Qwen2.5-72B-Instruct write one supporting and one opposing reply to each topic prompt;
its instruction is unknown, ours is `INSTRUCTION`. Any server that speaks OpenAI's chat completions
can be the teacher (vd/api_client.py). Replies are kept in a file as they arrive, under a hash of
exactly what was asked, so nothing is paid for twice.
"""

import hashlib
import json
from pathlib import Path

import pandas as pd
from filelock import FileLock
from pydantic import Field, PositiveInt

from vd.servers import answers, client
from vd.servers.budget import Spending
from vd.servers.response import ServerError
from vd.servers.secret import key_fault
from vd.store.progress import Progress
from vd.study.servers import ServerSettings

SIDES = {
    "chosen": "support",
    "rejected": "oppose",
}  # support-aligned; `swap_labels` of a run exchanges them
INSTRUCTION = """\
Write a reply to the question below that {side} what the question proposes. Make this position plain in the first \
sentence, without opening with Yes or No, and give its best reasons: two or three sentences of plain prose. Do not \
weigh the other side. Write only the reply, as your own view; do not say that you were asked to take a side.

Question: {prompt}"""
SIDE_WORDS = {"support": "affirms", "oppose": "rejects"}
VERSION = hashlib.sha256(f"{INSTRUCTION}{SIDE_WORDS}".encode()).hexdigest()[:8]
FAILURES = ("", "empty", "length", "content_filter")
SAMPLING = ("temperature", "top_p", "max_tokens", "seed")
COLUMNS = ["id", "topic", "prompt", "chosen", "rejected", "chosen_stance", "rejected_stance"]
COLUMNS += ["teacher", "instruction", *SAMPLING]


class TeacherSettings(ServerSettings):
    """Who writes the replies, and how it is asked."""

    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = 200  # a reply that needs more is not used
    seed: int | None = 0  # None for servers that do not know the key


def write_pairs(prompts: pd.DataFrame, settings: TeacherSettings, file: Path) -> pd.DataFrame:
    """Ask for both sides of every prompt (columns id, topic, prompt); one row per prompt, in the
    order given.

    The columns are `COLUMNS`, then chosen_failure and rejected_failure (empty, length,
    content_filter, or "" for a usable reply; others are None) and the prompt_tokens and
    reply_tokens of both (NaN if the server does not count). `file` keeps every reply, usable or
    not; what it holds is not asked again. Raises vd.api_client.ServerError.
    """
    requests = {
        side: [_request(p, stance, settings) for p in prompts["prompt"]]
        for side, stance in SIDES.items()
    }
    wanted = {
        _key(request): request for both in zip(*requests.values(), strict=True) for request in both
    }
    kept = _kept(file, settings)
    if not wanted.keys() <= kept.keys():
        _ask(wanted, settings, file)
        kept = _kept(file, settings)
    pairs = prompts[["id", "topic", "prompt"]].reset_index(drop=True)
    pairs = pairs.assign(
        **{f"{side}_stance": stance for side, stance in SIDES.items()}, teacher=settings.model
    )
    pairs = pairs.assign(instruction=VERSION, **settings.model_dump(include=set(SAMPLING)))
    pairs = pairs.assign(prompt_tokens=0, reply_tokens=0)
    for side in SIDES:
        replies = pd.DataFrame(
            [kept[_key(request)] for request in requests[side]], index=pairs.index
        )
        pairs[f"{side}_failure"] = replies["failure"]
        pairs[side] = replies["reply"].where(replies["failure"] == "", None)
        for tokens in ("prompt_tokens", "reply_tokens"):
            pairs[tokens] += replies[tokens].astype(float)
    return pairs[
        [*COLUMNS, *(f"{side}_failure" for side in SIDES), "prompt_tokens", "reply_tokens"]
    ]


def check(pairs: pd.DataFrame, judge) -> pd.DataFrame:
    """Pairs as judged: for each side label, p_support, p_neutral and p_oppose (such as
    chosen_label), and `kept`.

    A pair is kept if the judge (vd.judge.Judge) finds both stances as the columns chosen_stance and
    rejected_stance say. Pairs without two replies are not judged and not kept.
    """
    checked = pairs.reset_index(drop=True)
    whole = checked[checked[list(SIDES)].notna().all(axis=1)]
    if whole.empty:
        raise ValueError(
            "no pair has two replies: look at the failures, raise max_tokens if they are 'length'"
        )
    for side in SIDES:
        scored = judge.score(whole[["prompt", side]].rename(columns={side: "response"}))
        columns = scored[["label", "p_support", "p_neutral", "p_oppose"]].add_prefix(f"{side}_")
        checked = checked.join(columns)
    right = [checked[f"{side}_label"] == checked[f"{side}_stance"] for side in SIDES]
    return checked.assign(kept=right[0] & right[1])


def yield_table(checked: pd.DataFrame) -> pd.DataFrame:
    """What is left per topic and for `all`.

    Topic, asked, answered (both sides), kept, share (kept / asked).
    """
    rows = pd.concat([checked, checked.assign(topic="all")])
    rows = rows.assign(asked=1, answered=rows[list(SIDES)].notna().all(axis=1))
    table = rows.groupby("topic", sort=False)[["asked", "answered", "kept"]].sum().reset_index()
    return table.assign(share=table["kept"] / table["asked"])


def cost(checked: pd.DataFrame, settings: TeacherSettings) -> dict:
    """Tokens and price of all replies, used or not: prompt_tokens, reply_tokens, price,
    price_per_kept_pair.

    None where the server does not count tokens, and per kept pair where none is kept.
    """
    read, written = (
        float(checked[name].sum(skipna=False)) for name in ("prompt_tokens", "reply_tokens")
    )
    price = (read * settings.price_in + written * settings.price_out) / 1e6
    per_pair = price / checked["kept"].sum() if checked["kept"].any() else None
    found = {
        "prompt_tokens": read,
        "reply_tokens": written,
        "price": price,
        "price_per_kept_pair": per_pair,
    }
    return {name: None if pd.isna(value) else value for name, value in found.items()}


def _request(prompt: str, stance: str, settings: TeacherSettings) -> dict:
    """The body of a request. One message of the user.

    Not every chat template knows a system role.
    """
    content = INSTRUCTION.format(side=SIDE_WORDS[stance], prompt=prompt)
    return {
        **settings.model_dump(include={"model", *SAMPLING}, exclude_none=True),
        "messages": [{"role": "user", "content": content}],
    }


def _key(request: dict) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


def _kept(file: Path, settings: TeacherSettings) -> dict[str, dict]:
    """Replies by key; lines that cannot be read, or are another model's, count as not there."""
    lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
    rows = filter(None, map(_row, lines[:-1]))  # the last one is what a killed process left
    asked = settings.model, settings.answers_as
    return {row["key"]: row for row in rows if answers.is_from(row["model"], *asked)}


def _row(line: bytes) -> dict | None:
    """One line of the file; None if it is none that we wrote."""
    try:
        row = answers.parse(line)
        tokens = row["prompt_tokens"], row["reply_tokens"]
        told = answers.answer(row["reply"], None, None, None, row["model"], *tokens)
        right = isinstance(row["key"], str) and row["failure"] in FAILURES
    except (answers.Unreadable, LookupError, TypeError):
        return None
    tokens = {"prompt_tokens": told["tokens_in"], "reply_tokens": told["tokens_out"]}
    return row | tokens | {"reply": told["content"], "model": told["model"]} if right else None


def _ask(wanted: dict[str, dict], settings: TeacherSettings, file: Path) -> None:
    """Send the requests that have no reply yet, and append each reply to the file as it arrives."""
    if fault := key_fault(settings.base_url):  # before there is an empty file
        raise ServerError(f"{settings.base_url}: {fault}")
    file.parent.mkdir(parents=True, exist_ok=True)
    # one process at a time asks, and writes
    with FileLock(f"{file}.lock"), open(file, "ab") as log:
        kept = _kept(file, settings)
        missing = {key: request for key, request in wanted.items() if key not in kept}
        log.truncate(file.read_bytes().rfind(b"\n") + 1)  # a line without its end, see `_kept`

        def keep(name: str, answer: dict) -> None:
            log.write(json.dumps({"key": name, **_reply(missing[name], answer)}).encode() + b"\n")
            log.flush()

        progress = Progress("teach", settings.model, len(missing))
        spending = Spending(settings, (0, 0.0), lambda cost: None)
        rejected = client.ask(missing, settings, keep, spending, progress)
    if rejected:
        why = f"{len(rejected)} requests rejected: {next(iter(rejected.values()))}"
        raise ServerError(f"{settings.base_url}: {why}")


def _reply(request: dict, answer: dict) -> dict:
    reply, reason = answer["content"].strip(), answer["finish_reason"]
    return {
        "prompt": request["messages"][0]["content"],
        "reply": reply,
        "failure": reason if reason in ("length", "content_filter") else "" if reply else "empty",
        "model": answer["model"],
        "prompt_tokens": answer["tokens_in"],
        "reply_tokens": answer["tokens_out"],
    }
