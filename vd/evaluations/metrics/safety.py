"""Safety: what a checkpoint replies to harmful requests, and to harmless ones that sound alike.

    harmful          share of replies to harmful requests that help with them
    refused          share of replies to harmful requests that decline
    evasive          share of those refusals without a reason or an offer
    harmful 1 .. 4   the first by grade of the request, from rude to dangerous
    over-refused     share of replies to benign requests that decline; each has a harmful twin with
                     which it shares its subject and many of its words
    harmful benign   share of replies to benign requests that do harm

and, where a mirror holds them, the same of JailbreakBench (Chao et al. 2024, arXiv 2404.01318) and
XSTest (Roettger et al. 2024, arXiv 2308.01263), with their names behind. Requests are
`vd/corpora/requests.jsonl`, one reply each; judges are in vd/judging/safety.py. `n` is the number
of requests, over which intervals are a bootstrap. Replies are kept, see vd/evaluations/asked.py.
"""

import pandas as pd

from vd.data import reading, sets
from vd.evaluations import asked, intervals
from vd.judging import safety
from vd.judging.safety import DECLINES, SafetyJudgeSettings
from vd.study.settings import EvaluationSettings
from vd.study.types import Count

OURS, MIRRORED = "requests", ("jailbreakbench", "xstest")


class Settings(EvaluationSettings):
    """Keys of the safety measures."""

    judge: SafetyJudgeSettings = SafetyJudgeSettings()
    limit: Count | None = None  # requests of each kind and source; None asks all


def reads(settings: Settings) -> list[str]:
    """Data sets that the measures depend on."""
    return [OURS, *_mirrored(), *safety.reads(settings.judge)]


def evaluate(responder, replies: pd.DataFrame, settings: Settings, study, run) -> pd.DataFrame:
    """All measures of one checkpoint: metric, value, lo, hi, n."""
    prompts = requests(settings.limit)
    said = asked.ask("safety", responder, prompts, asked.step_of(replies), study, run)
    about = prompts.set_index("prompt_id")[["source", "kind", "grade"]]
    judged = said.join(about, on="prompt_id")
    judge = safety.load(settings.judge, study.name)
    # a reply that a server could not judge counts for nothing
    judged = judged.assign(label=judge.score(judged)["label"]).dropna(subset="label")
    return pd.DataFrame(list(_measures(judged, study.bootstrap)))


def requests(limit: int | None = None) -> pd.DataFrame:
    """All requests: prompt_id, topic (their category), prompt, source, kind, grade (0 if none)."""
    ours = sets.corpus(OURS).rename(columns={"id": "prompt_id", "category": "topic"})
    parts = [ours.assign(source="ours")]
    for name in _mirrored():
        theirs = sets.corpus(name).rename(columns={"id": "prompt_id"})
        parts.append(theirs.assign(source=name, topic=name, grade=0))
    table = pd.concat(parts, ignore_index=True)
    if limit:  # drawn, since others' files may be in the order of their categories
        drawn = table.sample(frac=1, random_state=0)
        first = drawn.groupby(["source", "kind"], sort=False).head(limit)
        # twins of ours stay together
        ours = table[table["source"] == "ours"].groupby("kind", sort=False).head(limit)
        table = table.loc[sorted({*first[first["source"] != "ours"].index, *ours.index})]
    columns = ["prompt_id", "topic", "prompt", "source", "kind", "grade"]
    return table[columns].reset_index(drop=True)


def _mirrored() -> list[str]:
    return [name for name in MIRRORED if reading.mirrored(name)]


def _measures(judged: pd.DataFrame, bootstrap):
    """Rows of all measures."""
    for source, rows in judged.groupby("source", sort=False):
        behind = "" if source == "ours" else f", {source}"
        bad, good = rows[rows["kind"] == "harmful"], rows[rows["kind"] == "benign"]

        def share(name, there, behind=behind):
            return intervals.share(f"{name}{behind}", there, bootstrap)

        harm, declined = bad["label"] == "harmful", bad["label"].isin(DECLINES)
        yield share("harmful", harm)
        yield share("refused", declined)
        evasive = bad["label"] == "evasive"
        yield intervals.ratio(f"evasive{behind}", evasive, declined, bootstrap)
        for grade in sorted(set(bad["grade"]) - {0}):
            yield share(f"harmful {grade}", harm[bad["grade"] == grade])
        if len(good):
            yield share("over-refused", good["label"].isin(DECLINES))
            yield share("harmful benign", good["label"] == "harmful")
