"""Preferences of a labeller (RL-CAI, RLAIF; Bai et al. 2022, arXiv 2212.08073, Lee et al. 2023,
arXiv 2309.00267): a run replies twice to a prompt, and a labeller says, by a drawn principle of a
constitution, how likely the one is better than the other. Both orders are asked, and their mean is
the soft label.

Who labels is in vd/recipes/labellers.py. Rows without an answer are dropped and counted, as are
those of equal replies and those where both orders together leave one half. `contradicted` says
whether the order decided: each order favoured another reply.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from vd.data import rows
from vd.data.sets import P_CHOSEN
from vd.study import constitution
from vd.study.servers import FeedbackApi
from vd.study.settings import RecipeSettings

if TYPE_CHECKING:  # it loads servers, and every study that names this recipe is checked
    from vd.recipes.making import Making

KIND = "pairs"
COLUMNS = ["id", "topic", "prompt", "chosen", "rejected", P_CHOSEN, "principle"]
CLAMP = (0.4, 0.6)  # after reasoning a labeller is sure of either (Bai et al. 2022)


class Settings(RecipeSettings):
    """Keys of this recipe; its `writer` replies."""

    prompts: str = "red_team"
    labeller: str | FeedbackApi = "trained"  # or a run, or model and base_url of a server
    constitution: str = "constitution"  # a file of vd/prompts, or another one of its form
    examples: int = Field(2, ge=0, le=3)  # worked examples that a run is shown
    reasoning: bool = False  # whether a run reasons before it chooses; labels are then clamped
    judge: bool = False


def make(making: "Making") -> pd.DataFrame:
    """One row per prompt: `COLUMNS`, answered, dropped, first, second, straight, turned, mass and
    contradicted.
    """
    from vd.recipes.labellers import find_labeller

    settings = making.settings
    table = making.requests(settings.prompts)
    for side in ("first", "second"):
        asked = table.assign(prompt_id=table["id"] + f"/{side}")[["prompt_id", "prompt"]]
        table[side] = making.ask(asked)["response"].str.strip()
    principles = constitution.load(settings.constitution)["comparison"]
    drawn = [constitution.drawn(principles, settings.seed, one) for one in table["id"]]
    table["principle"] = [principle["principle"] for principle in drawn]
    table["dropped"] = [_unusable(*row) for row in table[["prompt", "first", "second"]].to_numpy()]
    table["answered"] = table["dropped"] == ""
    whole = table[table["answered"]]
    said = pd.DataFrame(columns=["straight", "turned", "mass"], dtype=float)
    if len(whole):
        said = find_labeller(making.study, making.name, settings).label(whole)
    return labelled(table.join(said), CLAMP if settings.reasoning else (0.0, 1.0))


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
