"""Critique and revision (SL-CAI; Bai et al. 2022, arXiv 2212.08073): a reply to a red-team prompt
is criticised by a drawn principle and written again, several times; the last revision is learnt.

    request -> reply -> (principle -> critique -> revision) x revisions

Who answers first may be another run than who criticises and revises. Every step of every chain is
kept in `tried`: principle_1, critique_1, revision_1, state_1, and so on, beside harmful_0 (the
reply), harmful_1, ..., empty without a judge. States of a revision:

    unchanged    it says what was there before, but for a few words
    broken       it is empty, or repeats itself
    worse        harmful, where what it revises was not (by the harm judge, `judge: true`)
    changed      none of these
"""

import re
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import Field

from vd.data import rows
from vd.data.texts import SAME, common, is_broken
from vd.study import constitution
from vd.study.settings import RecipeSettings
from vd.study.types import Count

if TYPE_CHECKING:  # it loads servers, and every study that names this recipe is checked
    from vd.recipes.making import Making

KIND = "texts"
JUDGED_FOR = "safety"
COLUMNS = ["id", "topic", "prompt", "completion", "principles"]
CRITIQUE = "Request: {request}\nReply: {reply}\n\n{told}\nCritique: "
REVISION = "Request: {request}\nReply: {reply}\nCritique: {critique}\n\n{told}\nRevision: "
# how the worked examples ask, whatever principle is drawn
SHOWN = {"critique": "Say what is harmful in the reply.", "revision": "Write the reply again."}
LEAKS = re.compile(r"\n\s*(Request|Reply|Critique|Revision)\s*:|###")  # the next example begins


class Settings(RecipeSettings):
    """Keys of this recipe."""

    prompts: str = "red_team"
    answers: str | None = None  # a run that gives the first reply; None: the writer does
    constitution: str = "constitution"  # a file of vd/prompts, or another one of its form
    revisions: Count = 2
    examples: int = Field(2, ge=0, le=4)  # worked examples that the writer is shown


def make(making: "Making") -> pd.DataFrame:
    """One row per prompt: `COLUMNS`, answered, dropped, reply, and the steps of its chain."""
    settings = making.settings
    principles = constitution.load(settings.constitution)["critique"]
    chain = making.requests(settings.prompts)
    first = chain.assign(prompt_id=chain["id"] + "/reply")[["prompt_id", "prompt"]]
    chain["reply"] = making.ask(first, settings.answers)["response"].map(trimmed)
    now, harmful = chain["reply"], _harmful(making, chain["prompt"], chain["reply"])
    chain["harmful_0"] = harmful
    names = [""] * len(chain)
    for n in range(1, settings.revisions + 1):
        told = [constitution.drawn(principles, settings.seed, i, f"{n}") for i in chain["id"]]
        critique = _ask(making, chain, f"critique_{n}", now, told, "critique")
        revision = _ask(making, chain, f"revision_{n}", now, told, "revision", critique)
        chain[f"principle_{n}"] = [principle["id"] for principle in told]
        chain[f"critique_{n}"], chain[f"revision_{n}"] = critique, revision
        found = _harmful(making, chain["prompt"], revision)
        chain[f"state_{n}"] = list(map(_state, now, revision, harmful, found))
        chain[f"harmful_{n}"] = found
        names = [
            f"{name} {principle['id']}".strip() for name, principle in zip(names, told, strict=True)
        ]
        now, harmful = revision, found
    chain["completion"], chain["principles"] = now, names
    chain["answered"] = now.str.strip() != ""
    chain["dropped"] = [
        _reason(prompt, text, state)
        for prompt, text, state in zip(
            chain["prompt"], now, chain[f"state_{settings.revisions}"], strict=True
        )
    ]
    return chain[COLUMNS + [column for column in chain if column not in COLUMNS]]


def message(part: str, shown: list[dict], request: str, reply: str, told: str, critique: str = ""):
    """What the writer is told: worked examples, then this case; `part` is critique or revision."""
    form = {"critique": CRITIQUE, "revision": REVISION}[part]
    before = [
        form.format(told=SHOWN[part], **{k: e[k] for k in ("request", "reply", "critique")})
        + e[part]
        for e in shown
    ]
    case = form.format(request=request, reply=reply, critique=critique, told=told)
    return "\n\n".join([*before, case]).strip()


def trimmed(text: str) -> str:
    """What was written before another example begins."""
    return LEAKS.split(text)[0].strip()


def _ask(making, chain, step, now, told, part, critiques=None) -> pd.Series:
    shown = constitution.examples("critique", making.settings.examples)
    critiques = [""] * len(chain) if critiques is None else critiques
    given = zip(chain["prompt"], now, [one[part] for one in told], critiques, strict=True)
    asked = pd.DataFrame(
        {
            "prompt_id": chain["id"] + f"/{step}",
            "prompt": [message(part, shown, *case) for case in given],
        },
        index=chain.index,
    )
    return making.ask(asked)["response"].map(trimmed)


def _harmful(making, prompts: pd.Series, texts: pd.Series) -> list[bool | None]:
    """Which replies the judge finds harmful; nobody knows where there is no judge."""
    if not making.judge:
        return [None] * len(texts)
    replies = pd.DataFrame({"prompt": prompts, "response": texts})
    return making.judge.score(replies)["label"].eq("harmful").tolist()


def _state(old: str, new: str, was_harmful: bool | None, is_harmful: bool | None) -> str:
    if is_broken(new):
        return "broken"
    if common(old, new) >= SAME:
        return "unchanged"
    return "worse" if is_harmful and not was_harmful else "changed"


def _reason(prompt: str, text: str, state: str) -> str:
    """Why a chain is not learnt; "" if it is."""
    if state in ("broken", "worse"):
        return f"the last revision is {state}"
    # the same check as for people's own files, so that training refuses no row of ours
    found = rows.find_fault({"prompt": prompt, "completion": text})
    return found[0] if found else ""
