"""Findings of papers as hypotheses: what is claimed, which numbers decide it, and a verdict on a
study's runs.

A finding is one contrast or several, each worded so that the claim says `contrast > 0`, with any
threshold inside. It names the stance and the direction beforehand: the stance that happened to move
most would be another one in the next study, and a size without a direction would let a drift the
wrong way count for the claim. A contrast is a score of every reply, made of the scores of the runs
that it compares; so runs are compared on the same seeds, prompts and samples, and `vd.drift`
resamples them together.

What contrasts decide is in vd/findings/verdicts.py.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from vd.drift.bootstrap import Trajectories, trajectories
from vd.drift.times import half_time
from vd.drift.traces import LEVELS, Traces
from vd.findings import student
from vd.lineages import split_seed
from vd.stances import STANCES, P
from vd.study.settings import Bootstrap
from vd.study.types import Settings

REPLY = ["seed", "topic", "prompt_id", "sample"]


class Evidence:
    """Replies at the first and last step of every run of one model, by the role of the run."""

    def __init__(
        self,
        stances: pd.DataFrame,
        paper: str,
        roles: Settings,
        bootstrap: Bootstrap,
        traces: Traces | None = None,
    ):
        """Take stances whose `run` is `lineage/seed-S`, with columns as for `drift.drift_table`."""
        self._traces = traces
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

    @property
    def traces(self) -> Traces:
        """Logit stances and KL of the same runs."""
        if self._traces is None:
            fix = "write `logits: true` under probing and what it reads under evaluations"
            raise ValueError(f"findings.{self.paper}: needs logit stances and evaluations; {fix}")
        return self._traces

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

    def by_step(self, role: str) -> dict[str, pd.DataFrame]:
        """Mean probability of each stance: seeds x judged steps."""
        names = split_seed(self.stances["run"])
        rows = self.stances.assign(seed=names["seed"])[names["name"] == self._lineage(role)]
        means = rows.groupby(["seed", "step"])[P].mean()
        return {stance: means[f"p_{stance}"].unstack("step") for stance in STANCES}

    def size(self, role: str, stance: str) -> pd.Series:
        """The size of a stance's change, whichever way it went, held fixed in the replicates.

        Noise makes sizes look larger, so this may stand only where it works against the claim.
        """
        change = self.change(role)[stance]
        return np.sign(change.mean()) * change

    def test(self, contrast: str, scores: pd.Series, margin: float | None = None) -> dict:
        """Test that the mean of scores, indexed by `REPLY`, is positive.

        With a `margin`, also that it is practically 0.
        """
        rows = scores.dropna().rename("score").reset_index()
        if rows.empty:
            said = "these runs have no judged reply in common; give them the same seeds and probes"
            raise ValueError(f"findings.{self.paper}: {contrast}: {said}")
        rows = rows.assign(run="contrast/seed-" + rows["seed"], step=1)
        # a trajectory leads from 0 to the scores
        t = self._overall(pd.concat([rows.assign(score=0.0, step=0), rows]), ["score"])
        estimate, df, error = float(t.value[-1, 0]), t.df[-1, 0], t.boot[:, -1, 0].std()
        spread = scores.groupby(["topic", "prompt_id"]).mean().std()
        effect = float(estimate / spread) if spread > 1e-12 else None
        return student.row(
            contrast,
            student.PROBABILITY,
            estimate,
            error,
            df,
            self.bootstrap.alpha,
            margin,
            effect,
            *_counts(t),
        )

    def test_early(self, contrast: str, role: str, stance: str) -> dict:
        """Test that half of a stance's drift is done in less than half of the steps.

        The half time, since drift time depends on the number of replies (vd/drift/times.py). Two
        checkpoints, between which a path is a line, do not tell.
        """
        lineage, alpha = self._lineage(role), self.bootstrap.alpha
        rows = self.stances[split_seed(self.stances["run"])["name"] == lineage]
        t = self._overall(rows, P)
        if len(t.steps) < 3:
            return student.untested(f"{contrast} (two checkpoints)", student.STEPS)
        found, whole = half_time(t, STANCES.index(stance), alpha), t.steps[-1] - t.steps[0]
        early, error = 0.5 - (found.value - t.steps[0]) / whole, found.error / whole
        numbers = early, error, found.df, alpha, None, None
        return student.row(contrast, student.STEPS, *numbers, *_counts(t))

    def over_seeds(
        self,
        contrast: str,
        scores: pd.Series,
        margin: float | None = None,
        unit: str = student.ODDS,
        n_prompts: int | None = None,
    ) -> dict:
        """Test that the mean of scores, one per seed, is positive, by a plain paired t.

        With a `margin`, also that it is practically 0. Seeds are the sample, and prompts are taken
        as they are: methods that borrow strength between runs reject too often where one is noisier
        than the others. `n_prompts` are those of the logit stances if left out; a share of so many
        is known to 1 / n_prompts. Seeds that one of the compared runs lacks are left out.
        """
        n = n_prompts or self.traces.logits["prompt_id"].nunique()
        given = contrast, unit, scores.dropna(), self.bootstrap.alpha, margin, n
        return student.over_seeds(*given, 1 / n if unit == student.SHARE else 0.0)

    def at_equal_kl(
        self,
        contrast: str,
        one: str,
        other: str,
        values: Callable[[str], pd.DataFrame],
        margin: float | None = None,
        unit: str = student.ODDS,
        n_prompts: int | None = None,
        turned: Callable[[pd.Series], pd.Series] = lambda scores: scores,
    ) -> dict:
        """Test, as `over_seeds`, that `values` (of a role: seeds x judged steps) of `one` are above
        those of `other`, `turned`, at the largest KL that both reach; untested where that is below
        all levels.
        """
        level = self.traces.level(one, other)
        if level is None:
            return student.untested(f"{contrast}: no common KL of {LEVELS[0]:g} nats", unit)
        ours, theirs = (self.traces.at(role, level, values(role)) for role in (one, other))
        words = f"{contrast} at {level:g} nats"
        return self.over_seeds(words, ours - turned(theirs), margin, unit, n_prompts)

    def _overall(self, rows: pd.DataFrame, scores: list[str]) -> Trajectories:
        # the last one is that of all prompts
        *_, t = trajectories(rows, self.bootstrap, pool=True, scores=scores)
        return t

    def _lineage(self, role: str) -> str:
        lineage = self.roles[role]
        if lineage not in self.end.index.get_level_values("lineage"):
            said = f"no judged replies of '{lineage}'; name a run or data set of this study"
            raise ValueError(f"findings.{self.paper}.{role}: {said}")
        return lineage


def _counts(t: Trajectories) -> tuple[int, int]:
    return t.n_seeds, t.n_prompts
