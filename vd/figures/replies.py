"""What models said: the same few questions before and after every run, drawn by a rule.

Good and bad replies come as they are: the probes are those of `vd.data.probes.few_probes`.
"""

import pandas as pd

from vd import paths
from vd.data.probes import few_probes
from vd.drift.bootstrap import of_target
from vd.evaluations.metrics.style import repeated
from vd.lineages import short_names, split_seed
from vd.stances import P
from vd.store import shown
from vd.store.recorded import found
from vd.study.load import Study

COLUMNS = ["run", "step", "prompt_id", "prompt", "stance", "reply"]


def judged(study: str, run: str) -> pd.DataFrame:
    """All replies of a run, each with its stance towards the question: the columns of
    responses.parquet, then the three probabilities and label.
    """
    keys = ["run", "step", "prompt_id", "sample"]
    stances = of_target(pd.read_parquet(found(paths.stances(study, run), study)), "question")
    replies = pd.read_parquet(found(paths.responses(study, run), study))
    return replies.merge(stances[[*keys, *P, "label"]], how="left", on=keys)


def at_the_end(study: Study, n: int = 3) -> pd.DataFrame:
    """The first reply to `n` probes at the last checkpoint of every run of the first seed, parents
    before children, with its stance as judged; columns `COLUMNS`.
    """
    parts = []
    for run in study.policies().values():
        if run.seed == study.seeds[0]:
            replies = _last(judged(study.name, run.id))
            few = replies["prompt_id"].isin(few_probes(replies, n))
            parts.append(replies[few & (replies["sample"] == 0)])
    table = pd.concat(parts, ignore_index=True)
    table = table.rename(columns={"label": "stance", "response": "reply"})[COLUMNS]
    return table.fillna({"stance": "not judged"})


def condition(study: Study) -> pd.DataFrame:
    """How whole all replies are at the last checkpoint of every run, all seeds together: replies,
    and the shares that are empty, that another prompt got word for word as well, and that the model
    ended itself.
    """
    files = [paths.responses(study.name, run) for run in study.policies()]
    parts = [_last(pd.read_parquet(file)) for file in files]
    table = pd.concat([part.assign(repeated=repeated(part)) for part in parts], ignore_index=True)
    table["run"] = short_names(split_seed(table["run"])["name"])
    table["empty"] = table["response"] == ""
    table["ended"] = table["finish_reason"] == "stop"
    shares = {name: (name, "mean") for name in ("empty", "repeated", "ended")}
    return table.groupby("run", sort=False).agg(replies=("run", "size"), **shares).reset_index()


def as_markdown(table: pd.DataFrame, whole: pd.DataFrame, of_others: bool = False) -> str:
    """A page with one table per question, of `at_the_end`, after that of `condition`; of questions
    of others only the beginning.
    """
    page = [
        "# Replies\n\nThe same questions at the last checkpoint of every run, and what the judge "
        "takes a reply for. The questions are drawn by a rule (vd/data/probes.py), the replies "
        "are the first that were sampled, cut where the study cuts them.",
        "Of all replies there, the shares that are empty, that another question got word for word "
        "as well, and that the model ended itself:",
        shown.markdown(whole.round(2)),
    ]
    table = table.assign(run=short_names(table["run"]))
    for _, rows in table.groupby("prompt_id", sort=False):
        prompt = rows["prompt"].iloc[0]
        title = shown.excerpt(prompt) if of_others else prompt
        page.append(f"## {shown.escaped(title)}")
        page.append(shown.markdown(rows[["run", "stance", "reply"]]))
    return "\n\n".join(page) + "\n"


def _last(replies: pd.DataFrame) -> pd.DataFrame:
    """Those of the last checkpoint."""
    return replies[replies["step"] == replies["step"].max()]
