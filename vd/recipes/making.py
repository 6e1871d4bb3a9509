"""What every recipe shares: prompts to ask, a writer, a judge, and what becomes of the rows."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from vd import paths
from vd.data import topics
from vd.data.sets import corpus
from vd.judging.offline import OfflineJudge
from vd.judging.safety import SafetyJudge
from vd.recipes.writers import Writer
from vd.study.load import Study
from vd.study.settings import RecipeSettings, WriterSettings

MOST_PROMPTS = 5000  # of a public data set, among which those on a topic are looked for


@dataclass(frozen=True)
class Making:
    """One recipe of one study at work: what its `make` gets."""

    study: Study
    name: str  # of the data set
    settings: RecipeSettings
    writer: Writer | None  # None: nothing is written
    judge: OfflineJudge | SafetyJudge | None  # None: nothing is checked
    writer_of: Callable[[str], Writer] | None = None  # of another run, by its name
    replies: list[pd.DataFrame] = field(default_factory=list)  # all that was written, for the cost

    def ask(self, asked: pd.DataFrame, run: str | None = None) -> pd.DataFrame:
        """Replies of the writer, or of a run, to rows of prompt_id and prompt, index kept, see
        vd/recipes/writers.py.
        """
        replies = (self.writer_of(run) if run else self.writer).ask(asked)
        self.replies.append(replies)
        return replies

    def prompts(self, data: str) -> pd.DataFrame:
        """Prompts on the study's topics (id, topic, prompt), at most `size`, topics by turns.

        Ordinary instructions belong to no topic and are left out. Raises ValueError if a probe is
        among them, or if there are fewer than `size`.
        """
        # A value gap is a matter of topics: an ordinary instruction has no two sides to take.
        found = topics.with_topics(data, at_most=MOST_PROMPTS).dropna(subset="topic")
        turn = found.groupby("topic").cumcount()
        size = self.settings.size
        if size is not None and size > len(found):
            said = f"{size} asked for, '{data}' has {len(found)} prompts on topics; lower it"
            raise ValueError(f"{self._key('size')}: {said}")
        # By turns and not by chance: a smaller size is then a part of a larger one, whose replies
        # are kept already, and shortens all topics alike.
        drawn = found.loc[turn.sort_values(kind="stable").index[:size]]
        self._refuse_probes(drawn["prompt"], data)
        return drawn[["id", "topic", "prompt"]].reset_index(drop=True)

    def requests(self, data: str) -> pd.DataFrame:
        """Prompts on anything (id, topic, prompt), the first `size`; their topic is their category.

        Raises ValueError if a probe is among them, or if there are fewer than `size`.
        """
        return self._first(corpus(data), data, "prompts")[["id", "topic", "prompt"]]

    def pairs(self, data: str) -> pd.DataFrame:
        """Pairs on anything (id, topic, history, prompt, chosen, rejected), as `requests`."""
        found = corpus(data)
        if "history" not in found:
            found["history"] = [[] for _ in found.index]
        columns = ["id", "topic", "history", "prompt", "chosen", "rejected"]
        return self._first(found, data, "pairs")[columns]

    def _first(self, found: pd.DataFrame, data: str, key: str) -> pd.DataFrame:
        size = self.settings.size
        if size is not None and size > len(found):
            said = f"{size} asked for, '{data}' has {len(found)} prompts; lower it"
            raise ValueError(f"{self._key('size')}: {said}")
        found = found.head(size or len(found)).drop_duplicates("prompt", ignore_index=True)
        self._refuse_probes(found["prompt"], data, key)
        kinds = [name for name in ("category", "topic", "kind") if name in found]
        return found.assign(topic=found[kinds[0]] if kinds else data)

    def _refuse_probes(self, prompts: pd.Series, data: str, key: str = "prompts") -> None:
        """A probe must never be trained on: what is measured would be what was learnt."""
        if self.study.asks_vprism and not paths.vprism(self.study.name).exists():
            return  # A1_vprism builds them later, and 00_data looks for leaks
        # Equal texts only: 00_data looks for similar ones in all that a study trains on.
        probes = corpus(self.study.probing.probes)["prompt"]
        same = prompts.str.strip().str.casefold().isin(probes.str.strip().str.casefold())
        if same.any():
            said = f"{same.sum()} prompts of '{data}' are probes, such as {prompts[same].iloc[0]!r}"
            raise ValueError(f"{self._key(key)}: {said}; name others")

    def _key(self, key: str) -> str:
        return f"{paths.config(self.study.name)}: recipes.{self.name}.{key}"


def yield_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What is left per topic and for `all`: topic, asked, answered, kept, share (kept / asked)."""
    counted = pd.DataFrame(
        {
            "topic": rows["topic"],
            "asked": 1,
            "answered": rows["answered"].astype(int),
            "kept": rows["dropped"].eq("").astype(int),
        }
    )
    # each row twice: under its topic and under the sum of all
    both = pd.concat([counted, counted.assign(topic="all")])
    table = both.groupby("topic", sort=False).sum().reset_index()
    return table.assign(share=table["kept"] / table["asked"])


def cost(replies: pd.DataFrame, kept: int, server: WriterSettings | None) -> dict | None:
    """Tokens and dollars of all replies, used or not; None where a run wrote, which costs nothing.

    prompt_tokens, reply_tokens, dollars, dollars_per_kept_row: None where the server does not count
    tokens, and per kept row where none is kept.
    """
    if server is None:
        return None
    # One reply of unknown length makes the sum unknown: a sum of the others would be too low.
    read, written = (
        float(replies[name].sum(skipna=False)) for name in ("prompt_tokens", "reply_tokens")
    )
    # prices are in dollars for a million tokens
    dollars = (read * server.price_in + written * server.price_out) / 1e6
    found = {
        "prompt_tokens": read,
        "reply_tokens": written,
        "dollars": dollars,
        "dollars_per_kept_row": dollars / kept if kept else None,
    }
    return {name: None if pd.isna(value) else value for name, value in found.items()}
