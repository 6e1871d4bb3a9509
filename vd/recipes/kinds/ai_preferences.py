"""Preferences of a labeller (RL-CAI, RLAIF; Bai et al. 2022, arXiv 2212.08073, Lee et al. 2023,
arXiv 2309.00267): a labeller says, by a drawn principle of a constitution, how likely one of two
replies is better than the other. Both orders are asked, and their mean is the soft label. A run
replies twice, or two runs reply once; or the pairs of a data set are labelled anew (`pairs`), of
which `better` says what was chosen there.

Who labels is in vd/recipes/labellers.py. Rows without an answer are dropped and counted, as are
those of equal replies and those where both orders together leave one half. `contradicted` says
whether the order decided: each order favoured another reply.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from vd.data import rows
from vd.data.sets import P_CHOSEN
from vd.study import constitution
from vd.study.servers import FeedbackApi
from vd.study.settings import RecipeSettings, WriterSettings

if TYPE_CHECKING:  # it loads servers, and every study that names this recipe is checked
    from vd.recipes.making import Making

KIND = "pairs"
COLUMNS = ["id", "topic", "history", "prompt", "chosen", "rejected", P_CHOSEN, "principle"]
SIDES = ("first", "second")
CLAMP = (0.4, 0.6)  # after reasoning a labeller is sure of either (Bai et al. 2022)


class Settings(RecipeSettings):
    """Keys of this recipe; its `writer` replies, unless the pairs of a data set are labelled."""

    writer: str | WriterSettings | None = None
    second: str | None = None  # a run that gives the second reply; None: the writer gives both
    prompts: str = "red_team"
    pairs: str | None = None  # a data set of pairs, in place of a writer's replies to prompts
    labeller: str | FeedbackApi = "trained"  # or a run, or model and base_url of a server
    constitution: str = "constitution"  # a file of vd/prompts, or another one of its form
    examples: int = Field(2, ge=0, le=3)  # worked examples that a run is shown
    reasoning: bool = False  # whether a run reasons before it chooses; labels are then clamped
    judge: bool = False

    @model_validator(mode="after")
    def _one_of_both(self):
        if (self.writer is None) == (self.pairs is None):
            raise PydanticCustomError("pairs", "write either writer or pairs")
        return self


def make(making: "Making") -> pd.DataFrame:
    """One row per prompt: `COLUMNS`, answered, dropped, first, second, straight, turned, mass,
    contradicted, and of given pairs better, the side that was chosen.
    """
    from vd.judging.pairwise import conversations
    from vd.recipes.labellers import find_labeller

    settings = making.settings
    table = _given(making) if settings.pairs else _written(making)
    principles = constitution.load(settings.constitution)["comparison"]
    drawn = [constitution.drawn(principles, settings.seed, one) for one in table["id"]]
    table["principle"] = [principle["principle"] for principle in drawn]
    table["dropped"] = [_unusable(*row) for row in table[["prompt", "first", "second"]].to_numpy()]
    table["answered"] = table["dropped"] == ""
    whole = table[table["answered"]]
    said = pd.DataFrame(columns=["straight", "turned", "mass"], dtype=float)
    if len(whole):
        asked = whole.assign(prompt=conversations(whole))
        said = find_labeller(making.study, making.name, settings).label(asked)
    return labelled(table.join(said), CLAMP if settings.reasoning else (0.0, 1.0))


def _written(making: "Making") -> pd.DataFrame:
    """Prompts with two replies to each: first and second."""
    table, who = making.requests(making.settings.prompts), (None, making.settings.second)
    for side, run in zip(SIDES, who, strict=True):
        asked = table.assign(prompt_id=table["id"] + f"/{side}")[["prompt_id", "prompt"]]
        table[side] = making.ask(asked, run)["response"].str.strip()
    return table.assign(history=[[] for _ in table.index])


def _given(making: "Making") -> pd.DataFrame:
    """Pairs of a data set as first and second, by chance, with the side that was chosen there."""
    table = making.pairs(making.settings.pairs)
    drawn = np.random.default_rng([making.settings.seed, *b"sides"]).integers(2, size=len(table))
    first = pd.Series(drawn == 0, table.index)
    return table.assign(
        first=table["chosen"].where(first, table["rejected"]),
        second=table["rejected"].where(first, table["chosen"]),
        better=np.array(SIDES)[drawn],
    ).drop(columns=["chosen", "rejected"])


def labelled(table: pd.DataFrame, clamp: tuple[float, float]) -> pd.DataFrame:
    """Rows of first and second with what both orders said as chosen, rejected and a soft label."""
    p = table[["straight", "turned"]].mean(axis=1, skipna=False).clip(*clamp)
    silent = table["dropped"].eq("") & p.isna()
    torn = table["dropped"].eq("") & p.eq(0.5)
    ahead = (p >= 0.5) | p.isna()
    table = table.assign(
        chosen=table["first"].where(ahead, table["second"]),
        rejected=table["second"].where(ahead, table["first"]),
        contradicted=(table["straight"] - 0.5) * (table["turned"] - 0.5) < 0,
        dropped=table["dropped"].mask(silent, "no answer").mask(torn, "no preference"),
        **{P_CHOSEN: np.maximum(p, 1 - p)},
    )
    return table[COLUMNS + [column for column in table if column not in COLUMNS]]


def _unusable(prompt: str, first: str, second: str) -> str:
    """Why two replies make no pair; "" if they do."""
    # the same check as for people's own files, so that training refuses no row of ours
    found = rows.find_fault({"prompt": prompt, "chosen": first, "rejected": second})
    return found[0] if found else ""
