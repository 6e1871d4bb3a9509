"""Synthetic value-gap pairs: a writer takes both sides of a question, a judge checks that it did.

The paper had Qwen2.5-72B-Instruct write one supporting and one opposing reply to each topic prompt;
its instruction is unknown, ours is `INSTRUCTION`.
"""

from typing import TYPE_CHECKING

import pandas as pd

from vd.data import rows
from vd.study.settings import RecipeSettings

if TYPE_CHECKING:  # it loads servers, and every study that names this recipe is checked
    from vd.recipes.making import Making

KIND = "pairs"
FAILURES = {  # of a reply, as reasons to drop its pair
    "empty": "an empty reply",
    "length": "a cut reply",
    "content_filter": "a withheld reply",
    "rejected": "a rejected request",
}
# Aligned with support: `swap_labels` of a run exchanges the sides, so one data set serves both.
SIDES = {"chosen": "support", "rejected": "oppose"}
# Nearly half of the embedded pairs open with Yes and No, and a model could learn the word in place
# of the stance: so both are forbidden here.
INSTRUCTION = """\
Write a reply to the question below that {side} what the question proposes. Make this position \
plain in the first sentence, without opening with Yes or No, and give its best reasons: two or \
three sentences of plain prose. Do not weigh the other side. Write only the reply, as your own \
view; do not say that you were asked to take a side.

Question: {prompt}"""
SIDE_WORDS = {"support": "affirms", "oppose": "rejects"}
COLUMNS = ["id", "topic", "prompt", "chosen", "rejected", "chosen_stance", "rejected_stance"]


class Settings(RecipeSettings):
    """Keys of this recipe."""

    prompts: str = "value_gap"  # a data set; those of its prompts that are on a topic are asked


def make(making: "Making") -> pd.DataFrame:
    """One row per prompt: `COLUMNS`, answered, dropped, and chosen_failure and rejected_failure.

    With a judge there are also label, p_support, p_neutral and p_oppose of both sides, such as
    chosen_label, and a pair is kept if both stances are as asked. Without, all pairs are kept whose
    replies differ, cut ones too.
    """
    prompts = making.prompts(making.settings.prompts)
    # Both sides in one call, so that a server's requests and a run's batches are full.
    asked = pd.concat([_requests(prompts, side) for side in SIDES], ignore_index=True)
    replies = asked[["side"]].join(making.ask(asked[["prompt_id", "prompt"]]))
    pairs = prompts.assign(**{f"{side}_stance": stance for side, stance in SIDES.items()})
    for side in SIDES:
        # by place, since requests of either side are in the order of the prompts
        own = replies[replies["side"] == side].reset_index(drop=True)
        pairs[side], pairs[f"{side}_failure"] = own["response"], own["failure"]
    # A cut reply may break off before its "not": whoever checks wants whole ones.
    usable = {""} if making.judge else {"", "length"}
    failures = pairs[[f"{side}_failure" for side in SIDES]]
    pairs["answered"] = failures.isin(usable).all(axis=1)
    pairs["dropped"] = [_reason(pair, usable) for pair in pairs.to_dict("records")]
    pairs = judge_sides(pairs, making.judge) if making.judge else pairs
    return pairs[COLUMNS + [column for column in pairs if column not in COLUMNS]]


def judge_sides(pairs: pd.DataFrame, judge) -> pd.DataFrame:
    """Pairs as judged (vd.judging): label and p_ columns of both sides, and `dropped`.

    A pair whose judged stances are not those of chosen_stance and rejected_stance is dropped.
    Pairs that were dropped before are not judged.
    """
    judged = pairs.reset_index(drop=True)
    whole = judged[judged["dropped"] == ""]
    for side in SIDES:
        columns = ["label", "p_support", "p_neutral", "p_oppose"]
        # with nothing to judge the columns are there all the same
        scored = pd.DataFrame(columns=columns)
        if len(whole):
            scored = judge.score(whole[["prompt", side]].rename(columns={side: "response"}))
        judged = judged.join(scored[columns].add_prefix(f"{side}_"))
    wrong = [judged[f"{side}_label"] != judged[f"{side}_stance"] for side in SIDES]
    # A missing label differs from any stance, so pairs that were dropped before keep their reason.
    other = judged["dropped"].eq("") & (wrong[0] | wrong[1])
    return judged.assign(dropped=judged["dropped"].mask(other, "another stance"))


def message(prompt: str, stance: str) -> str:
    """What the writer is told."""
    return INSTRUCTION.format(side=SIDE_WORDS[stance], prompt=prompt)


def _requests(prompts: pd.DataFrame, side: str) -> pd.DataFrame:
    """What is asked for one side of every prompt: side, prompt_id, prompt."""
    stance = SIDES[side]
    return pd.DataFrame(
        {
            "side": side,
            "prompt_id": prompts["id"] + f"/{stance}",
            "prompt": [message(prompt, stance) for prompt in prompts["prompt"]],
        }
    )


def _reason(pair: dict, usable: set[str]) -> str:
    """Why a pair cannot be trained on; "" if it can."""
    for side in SIDES:
        if pair[f"{side}_failure"] not in usable:
            return FAILURES[pair[f"{side}_failure"]]
    # the same check as for people's own files, so that training refuses no row of ours
    found = rows.find_fault({column: pair[column] for column in ("prompt", *SIDES)})
    return found[0] if found else ""
