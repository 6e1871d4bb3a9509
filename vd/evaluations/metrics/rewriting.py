"""Rewriting: do replies carry the values that were asked for, and keep what was said? Of runs that
rewrite; prompts are those of `vd/corpora/value_rewrites_held_out.jsonl`, of other answers than
rewriters learn from.

    forward, backward, consistency    probabilities of entailment (vd/readers/consistency.py)
    L2, cosine                        of the reply's values and the target clip(v(y_0) + shift)
    JSR                               share with L2 < 0.8 and consistency > 0.3, VISA's joint
                                      success rate (arXiv 2603.04822)
    JSR at L2 < t                     the same with another threshold
    JSR / cosine of ...               of prompts that ask for one value or for several, for shifts
                                      of a half or of one
    untouched                         mean absolute change of values that were not asked for
    cosine (reward)                   by the detector that a reward may use; how far it lies above
                                      the judge's tells how far a policy has learnt the detector
    copies                            share of replies that are the original but for a few words,
                                      of those that were asked for a change
    length                            words of a reply over those of its original, mean

Values are read by a judge that no reward asks (vd/readers/values_judge.py). Intervals are a
bootstrap over prompts. Replies are kept, see vd/evaluations/asked.py; `measured` gives a row each.
"""

import numpy as np
import pandas as pd

from vd import values as space
from vd.data import sets
from vd.data.texts import SAME, common
from vd.evaluations import asked, intervals
from vd.readers import consistency, values, values_judge
from vd.readers.consistency import ConsistencySettings
from vd.readers.values import ValueReaderSettings
from vd.study.settings import EvaluationSettings, ModelSettings
from vd.study.types import Count
from vd.values import KEPT, NAMES, NEAR, OTHERS

DATA = "value_rewrites_held_out"


class Settings(EvaluationSettings):
    """Keys of the measures of rewriting."""

    limit: Count | None = None  # prompts, the first ones
    detector: ValueReaderSettings = ValueReaderSettings()
    consistency: ConsistencySettings = ConsistencySettings()
    judge_of_values: ModelSettings = values_judge.MODEL  # whose hidden states the judge reads


def reads(settings: Settings) -> list[str]:
    """Data sets that the measures depend on."""
    return [DATA, "values", *consistency.there()]


def evaluate(responder, replies: pd.DataFrame, settings: Settings, study, run) -> pd.DataFrame:
    """All measures of one checkpoint: metric, value, lo, hi, n."""
    tasks = sets.corpus(DATA).head(settings.limit or None)
    prompts = tasks.assign(prompt_id=tasks["id"], topic="rewriting")
    prompts = prompts[["prompt_id", "topic", "prompt"]]
    said = asked.ask("rewriting", responder, prompts, asked.step_of(replies), study, run)
    said = said.groupby("prompt_id", sort=False)["response"].first()
    found = measured(tasks, tasks["id"].map(said), *readers(settings))
    found = found.join(by_kind(tasks, found))
    rows = []
    for name, own in found.items():
        shares = name == "copies" or name.startswith("JSR")
        measure = intervals.share if shares else intervals.mean
        rows.append(measure(name, own.dropna().to_numpy(float), study.bootstrap))
    return pd.DataFrame(rows)


def readers(settings: Settings) -> tuple:
    """The judge of values, a reward's detector, and the judge of consistency."""
    judge = values_judge.load(settings.judge_of_values)
    return judge, values.load(settings.detector), consistency.load(settings.consistency)


def measured(tasks: pd.DataFrame, texts: pd.Series, judge, detector, nli) -> pd.DataFrame:
    """The measures of each task (original and ten shifts) with its text, index kept."""
    shift = tasks[list(NAMES)].to_numpy(float)
    before, after = judge.read(tasks["original"]), judge.read(texts)
    target = space.moved(before, shift)
    table = nli.score(tasks["original"], texts)
    far = space.distance(after, target)
    rewarded = space.moved(detector.read(tasks["original"]), shift)
    calm = np.where(shift == 0, np.abs(after - before), np.nan)
    pairs = list(zip(tasks["original"], texts, strict=True))
    copies = np.array([common(*pair) >= SAME for pair in pairs], float)
    words = [max(len(original.split()), 1) for original in tasks["original"]]
    return table.assign(
        L2=far,
        cosine=space.cosine(after, target),
        untouched=np.nanmean(calm, axis=1),
        JSR=(far < NEAR) & (table["consistency"] > KEPT),
        copies=np.where((shift != 0).any(axis=1), copies, np.nan),
        length=texts.str.split().str.len().to_numpy() / words,
    ).assign(**{"cosine (reward)": space.cosine(detector.read(texts), rewarded)})


def by_kind(tasks: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Of `measured`: success at other thresholds, and by what was asked for; NaN elsewhere."""
    kept = found["consistency"] > KEPT
    table = {f"JSR at L2 < {t:g}": ((found["L2"] < t) & kept).astype(float) for t in OTHERS}
    shift = tasks[list(NAMES)].abs()
    n, most = (shift > 0).sum(axis=1), shift.max(axis=1)
    kinds = {"one value": n == 1, "several values": n > 1}
    kinds |= {"half a step": most.between(0, 0.5, "right"), "a whole step": most > 0.5}
    for kind, there in kinds.items():
        for name in ("JSR", "cosine"):
            table[f"{name} of {kind}"] = found[name].astype(float).where(there)
    return pd.DataFrame(table, found.index)
