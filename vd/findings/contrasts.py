"""Findings of papers as hypotheses: what is claimed, which numbers decide it, and a verdict on a
study's runs.

A finding is one contrast or several, each worded so that the claim says `contrast > 0`, with any
margin inside. A contrast is a score of every reply, made of the scores of the runs that it
compares; so runs are compared on the same seeds, prompts and samples, and `vd.drift` resamples them
together. The size of a drift |M_s| is scored as the drift in the direction that the data show, held
fixed in the replicates. Noise makes sizes look larger, most where there is no drift; between two
sizes this works against the claim that one of them is larger.

    p_holds, p_fails  one-sided, from Student's t of estimate / standard error with the degrees of
    freedom of the drift
                      intervals: a share of 2,000 replicates could not go below 1/2000, and three
                      seeds need the t; intervals are estimate -+ t standard errors. Drift time is
                      no mean of scores: shares it is
    conjunction       holds if all contrasts do: p_holds is the largest (intersection-union test);
                      fails if any one is shown to be negative: p_fails is the smallest, times their
                      number
    verdict           two-sided p = 2 min(p_holds, p_fails), after Holm over all findings of one
                      paper, below alpha: each paper is a family of its own, so that naming
                      another one changes no verdict
"""

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from vd.drift import measures
from vd.drift.bootstrap import Trajectories, trajectories
from vd.findings.finding import Finding
from vd.lineages import split_seed
from vd.stances import STANCES
from vd.study import roles
from vd.study.load import Study
from vd.study.settings import Bootstrap
from vd.study.types import Settings

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided at this size"
REPLY = ["seed", "topic", "prompt_id", "sample"]
CONTRAST = [
    "contrast",
    "estimate",
    "lo",
    "hi",
    "p_holds",
    "p_fails",
    "effect",
    "n_seeds",
    "n_prompts",
]


class Evidence:
    """Replies at the first and last step of every run of one model, by the role of the run."""

    def __init__(self, stances: pd.DataFrame, paper: str, roles: Settings, bootstrap: Bootstrap):
        """Take stances whose `run` is `lineage/seed-S`, with columns as for `drift.drift_table`."""
        self.stances, self.bootstrap = stances, bootstrap
        self.paper, self.roles = paper, roles.model_dump()
        names = split_seed(stances["run"]).rename(columns={"name": "lineage"})
        rows = pd.concat([stances, names], axis=1).rename(columns={f"p_{s}": s for s in STANCES})
        steps = rows.groupby("run")["step"]
        index = ["lineage", *REPLY]
        # by run, since runs need not have the same steps
        self.start, self.end = (
            rows[rows["step"] == steps.transform(which)].set_index(index)[[*STANCES]].sort_index()
            for which in ("min", "max")
        )

    def probability(self, role: str, stance: str) -> pd.Series:
        """Probability of a stance at the end, a score per reply."""
        return self.end.loc[self._lineage(role), stance]

    def change(self, role: str) -> pd.DataFrame:
        """End minus start, a score per reply and stance; for data sets, chosen minus rejected."""
        # paired by reply: one that is missing at either end becomes NaN and drops out
        change = self.end.loc[self._lineage(role)] - self.start.loc[self._lineage(role)]
        if change.dropna().empty:
            said = f"no reply of '{self.roles[role]}' is judged at both ends"
            raise ValueError(f"findings.{self.paper}.{role}: {said}; judge them again")
        return change

    def size(self, role: str, stance: str | None = None) -> pd.Series:
        """The size of a stance's change, or without `stance` of the largest one, which is half the
        sum of all three.
        """
        change = self.change(role)
        magnitude = change.mean()
        stance = stance or magnitude.abs().idxmax()
        return np.sign(magnitude[stance]) * change[stance]

    def test(self, contrast: str, scores: pd.Series) -> dict:
        """Test that the mean of scores, indexed by `REPLY`, is positive."""
        rows = (
            scores.dropna()
            .rename("p_support")
            .reset_index()
            .assign(p_neutral=0.0, p_oppose=0.0, step=1)
        )
        if rows.empty:
            said = "these runs have no judged reply in common; give them the same seeds and probes"
            raise ValueError(f"findings.{self.paper}: {contrast}: {said}")
        rows["run"] = "contrast/seed-" + rows["seed"]
        t = self._overall(
            pd.concat([rows.assign(p_support=0.0, step=0), rows])
        )  # leads from 0 to the scores
        estimate, df = float(t.value[-1, 0]), t.df[-1, 0]
        # scores that are all alike have no error, and 0 / 0 gives no p value
        error = max(t.boot[:, -1, 0].std(), 1e-12)
        reach = -stdtrit(df, self.bootstrap.alpha / 2) * error
        # between prompts, after the mean over their replies and seeds
        spread = scores.groupby(["topic", "prompt_id"]).mean().std()
        p_holds, p_fails = (float(stdtr(df, sign * estimate / error)) for sign in (-1, 1))
        effect = float(estimate / spread) if spread > 1e-12 else None
        return _row(
            contrast, estimate, estimate - reach, estimate + reach, p_holds, p_fails, effect, t
        )

    def test_early(self, contrast: str, role: str) -> dict:
        """Test that the drift time of the stance that moved most is below 0.5.

        P values are shares of replicates.
        """
        lineage, alpha = self._lineage(role), self.bootstrap.alpha
        t = self._overall(self.stances[split_seed(self.stances["run"])["name"] == lineage])
        time, times = measures.drift_time(t, int(np.abs(t.value[-1]).argmax()), alpha)
        lo, hi = t.interval(times, alpha)
        # one more, since no number of replicates shows a p of 0
        p_holds, p_fails = (
            (1 + int(n)) / (1 + len(times)) for n in ((times >= 0.5).sum(), (times <= 0.5).sum())
        )
        # the contrast is 0.5 - time, which swaps the ends of the interval
        return _row(contrast, 0.5 - time, 0.5 - hi, 0.5 - lo, p_holds, p_fails, None, t)

    def _overall(self, stances: pd.DataFrame) -> Trajectories:
        # the last one is that of all topics
        *_, t = trajectories(stances, self.bootstrap, pool=True)
        return t

    def _lineage(self, role: str) -> str:
        lineage = self.roles[role]
        if lineage not in self.end.index.get_level_values("lineage"):
            said = f"no judged replies of '{lineage}'; name a run or data set of this study"
            raise ValueError(f"findings.{self.paper}.{role}: {said}")
        return lineage


def _row(contrast, estimate, lo, hi, p_holds, p_fails, effect, t: Trajectories) -> dict:
    values = (
        contrast,
        float(estimate),
        float(lo),
        float(hi),
        p_holds,
        p_fails,
        effect,
        t.n_seeds,
        t.n_prompts,
    )
    return dict(zip(CONTRAST, values, strict=True))


def evaluate(
    study: Study, stances: pd.DataFrame, pairs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Verdicts on all findings whose roles the study names: one row per finding and model, and one
    per contrast, paper by paper.

    `stances` are those of all runs; `pairs` has dataset, prompt_id, topic, side (chosen or
    rejected), p_support, p_neutral, p_oppose, and decides the findings on data sets, whose model is
    `data`. Estimate, interval and effect are those of the weakest contrast; the effect is the
    estimate over the standard deviation between prompts (Cohen's d). A finding on a data set of
    which no pair could be judged stays undecided, and does not count as a test. Holm corrects for
    the findings of one paper. Where a study names several papers, findings are called
    `paper.finding`, else `finding` alone. Raises ValueError if a role names another run or data set
    without judged replies.
    """
    parts = _by_model(study, stances, pairs)
    entries = [*study.sft.values(), *study.preference.values()]
    # data sets that runs train on and of which no pair was judged
    empty = {entry.get("data") for entry in entries} - set(pairs["dataset"])
    table, contrasts = [], []
    for paper, played in roles.played(study).items():
        prefix = f"{paper}." if len(study.findings) > 1 else ""
        for model, part, of_data in parts:
            evidence = Evidence(part, paper, played, study.bootstrap)
            for finding in _findings(paper, played, of_data):
                tests = _tests(finding, evidence, empty if of_data else set())
                about = {"source": paper, "model": model, "finding": prefix + finding.key}
                contrasts += [about | test for test in tests]
                table.append(about | _decide(finding, tests))
    columns = ["source", "model", "finding", "statement", "paper", *CONTRAST]
    return (
        _judge(pd.DataFrame(table, columns=columns), study.bootstrap),
        pd.DataFrame(contrasts, columns=["model", "finding", *CONTRAST]),
    )


def _by_model(
    study: Study, stances: pd.DataFrame, pairs: pd.DataFrame
) -> list[tuple[str, pd.DataFrame, bool]]:
    """Stances by model, then those of the pairs; whether they are of data sets."""
    if "target" in stances:
        stances = stances[stances["target"] == "question"]
    # a data set is scored like a run that starts at what is rejected and ends at what is chosen
    sides = pairs.assign(
        run=pairs["dataset"] + "/seed-0", step=(pairs["side"] == "chosen").astype(int), sample=0
    )
    of_model = stances["run"].str.partition("/")
    runs = stances.assign(run=of_model[2])
    parts = [(m, runs[of_model[0] == m].reset_index(drop=True), False) for m in study.models]
    # told apart by the flag, since a model may be called `data` as well
    return [*parts, ("data", sides.reset_index(drop=True), True)]


def _findings(paper: str, played: Settings, of_data: bool) -> list[Finding]:
    """Findings of a paper on runs or on data sets, as far as the study names all their roles."""
    return [
        finding
        for finding in roles.paper(paper).FINDINGS
        if (roles.kind(type(played), finding.roles[0]) == "data") == of_data
        and all(getattr(played, role) is not None for role in finding.roles)
    ]


def _tests(finding: Finding, evidence: Evidence, empty: set[str]) -> list[dict]:
    """Its contrasts; where they need a data set in `empty`, that there is nothing to test."""
    nothing = [_untested(role) for role in finding.roles if evidence.roles[role] in empty]
    return nothing or finding.contrasts(evidence)


def _untested(role: str) -> dict:
    """In place of a contrast that could not be made."""
    values = f"no pair of {role} was judged", *[float("nan")] * 5, None, 0, 0
    return dict(zip(CONTRAST, values, strict=True))


def _decide(finding: Finding, tests: list[dict]) -> dict:
    """One row for all contrasts of a finding, with the numbers of the weakest one."""
    weakest = max(tests, key=lambda test: test["p_holds"])
    # Bonferroni: to fail it is enough that one contrast does
    p_fails = min(1.0, len(tests) * min(test["p_fails"] for test in tests))
    about = {"statement": finding.statement, "paper": finding.paper}
    return about | weakest | {"p_fails": p_fails}


def _judge(table: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Add two-sided p values, Holm's for each paper, and verdicts."""
    # NaN, where there was nothing to test, stays NaN and is no member of the family
    p = np.minimum(1, 2 * table[["p_holds", "p_fails"]].min(axis=1, skipna=False).to_numpy(float))
    side = np.where(table["p_holds"] < table["p_fails"], HOLDS, FAILS)
    p_holm = p.copy()
    for source in table["source"].unique():
        family = (table["source"] == source).to_numpy() & ~np.isnan(p)
        p_holm[family] = holm(p[family])
    table = table.assign(
        p=p, p_holm=p_holm, verdict=np.where(p_holm < bootstrap.alpha, side, UNDECIDED)
    )
    names = "model finding statement estimate lo hi p p_holm verdict effect paper n_seeds n_prompts"
    return table[names.split()]


def holm(p: np.ndarray) -> np.ndarray:
    """P values adjusted for testing all of them (Holm 1979).

    Ascending, times how many are left, never falling.
    """
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
