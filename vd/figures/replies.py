"""What models said: the same few questions before and after every run, drawn by a rule.

The probes are those whose ids have the smallest SHA-256, one of a topic. So nobody picks them, they
are the same in every study that asks them, and good and bad replies come as they are.
"""

import hashlib

import pandas as pd

from vd import paths
from vd.lineages import short_names
from vd.store import shown
from vd.study.load import Study

COLUMNS = ["run", "step", "prompt_id", "prompt", "stance", "reply"]


def drawn(prompts: pd.DataFrame, n: int = 3) -> list[str]:
    """Ids of `n` probes of different topics, from columns prompt_id and topic; fewer if there are
    fewer topics.
    """
    ids = prompts.drop_duplicates("prompt_id")
    order = ids["prompt_id"].map(lambda text: hashlib.sha256(text.encode()).hexdigest())
    ids = ids.assign(order=order).sort_values("order")
    return ids.drop_duplicates("topic")["prompt_id"].head(n).tolist()


def at_the_end(study: Study, n: int = 3) -> pd.DataFrame:
    """The first reply to `n` probes at the last checkpoint of every run of the first seed, parents
    before children, with its stance as judged; columns `COLUMNS`.
    """
    parts = []
    for run in study.policies().values():
        if run.seed != study.seeds[0]:
            continue
        replies = pd.read_parquet(paths.responses(study.name, run.id))
        stances = pd.read_parquet(paths.stances(study.name, run.id))
        keys = ["run", "step", "prompt_id", "sample"]
        labels = stances.loc[stances["target"] == "question", [*keys, "label"]]
        last = replies[(replies["step"] == replies["step"].max()) & (replies["sample"] == 0)]
        last = last[last["prompt_id"].isin(drawn(replies, n))]
        parts.append(last.merge(labels, how="left", on=keys))
    table = pd.concat(parts, ignore_index=True)
    table = table.rename(columns={"label": "stance", "response": "reply"})[COLUMNS]
    return table.fillna({"stance": "not judged"})


def as_markdown(table: pd.DataFrame, of_others: bool = False) -> str:
    """A page with one table per question; of questions of others only the beginning."""
    page = [
        "# Replies\n\nThe same questions at the last checkpoint of every run, and what the judge "
        "takes a reply for. The questions are drawn by a rule (vd/figures/replies.py), the replies "
        "are the first that were sampled, cut where the study cuts them."
    ]
    table = table.assign(run=short_names(table["run"]))
    for _, rows in table.groupby("prompt_id", sort=False):
        prompt = rows["prompt"].iloc[0]
        title = shown.excerpt(prompt) if of_others else prompt
        page.append(f"## {shown.escaped(title)}")
        page.append(shown.markdown(rows[["run", "stance", "reply"]]))
    return "\n\n".join(page) + "\n"
