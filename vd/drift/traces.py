"""Logit stances and the KL clock of a study's runs, as one number per seed.

    drift at K nats   the drift of a logit stance where a run has gone K nats per reply from its
                      start, interpolated between judged checkpoints, linearly in sqrt(KL), along
                      which drift is nearly straight (Gao et al. 2022, arXiv 2210.10760)
    amplification     slope of a prompt's drift over its log-odds at the start
    stance share      E_x KL(s_t(x) || s_0(x)) / KL per reply, with s(x) the distribution of a
                      reply's opening over yes, no and all else: the part of a policy's change that
                      is seen as stance, at most 1 by the data-processing inequality

A logit stance is not sampled, so seeds differ by training alone. Prompts are taken as they are, not
as a sample.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.drift.acquiescence import MEASURES
from vd.drift.times import crossings
from vd.lineages import split_seed
from vd.study.load import Study

LEVELS = (0.25, 0.5, 1.0, 2.0)  # nats per reply at which runs are compared
CLOCK = ("kl", "kl")  # the evaluation and its metric that tell them


def clocked(study: Study) -> bool:
    """Whether a study measures KL beside logits, so that drift can be seen against it."""
    return study.probing.logits and CLOCK[0] in study.evaluations


def files(study: Study) -> list[Path]:
    """What a study's traces are read from; none where it evaluates nothing or has no logits."""
    if not study.probing.logits or not study.evaluations:
        return []
    return [paths.table(study.name, name) for name in ("logit_stances.parquet", "evaluations.csv")]


def read(study: Study) -> list[pd.DataFrame]:
    """Logit stances and evaluations of all runs, from `files`; none where there are none."""
    readers = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    return [readers[file.suffix](file) for file in files(study)]


def clock_of(measured: pd.DataFrame) -> pd.DataFrame:
    """The rows of evaluations that tell a run's KL from its start."""
    clock = (measured["evaluation"] == CLOCK[0]) & (measured["metric"] == CLOCK[1])
    return measured[clock & (measured["n"] > 0)]


class Traces:
    """What moved at every checkpoint of the runs of one model, by role, a row per seed."""

    def __init__(
        self,
        logits: pd.DataFrame,
        measured: pd.DataFrame,
        polarity: pd.Series,
        roles: dict[str, str | None],
        place: str = "traces",
    ):
        """Take logits (columns of `vd.probing.logits`) and evaluations whose `run` is
        `lineage/seed-S`, the polarity of probes by prompt_id, the lineage in each role, and for
        errors the place where a role is written.
        """
        self.place, self.roles = place, roles
        sign = logits["prompt_id"].map(polarity)
        self.logits = _by_seed(logits.assign(sign=sign)[sign.isin([-1, 1])])
        self.clock = _by_seed(clock_of(measured))
        self.evaluations = _by_seed(measured)

    def drift(self, role: str, measure: str = "acquiescence") -> pd.DataFrame:
        """Acquiescence or lean (vd/drift/acquiescence.py) since the start: seeds x saved steps."""
        rows = self._of(self.logits, role, "logits")
        net = rows.groupby(["seed", "step", "sign"])["log_odds"].mean().unstack("sign")
        values = (net[1] + net[-1] if measure == "acquiescence" else net[1] - net[-1]) / 2
        values = values.unstack("step")
        return values.sub(values.iloc[:, 0], axis=0)

    def end(self, role: str, measure: str = "acquiescence") -> pd.Series:
        """The drift at the last step."""
        return self.drift(role, measure).iloc[:, -1]

    def half_time(self, role: str) -> pd.Series:
        """Share of the steps after which half of the drift of acquiescence is done."""
        drift = self.drift(role)
        up = -1 if drift.iloc[:, -1].mean() < 0 else 1
        steps = drift.columns.to_numpy(float)
        return pd.Series(crossings(up * drift.to_numpy(), steps) / steps[-1], drift.index)

    def nats(self, role: str) -> pd.DataFrame:
        """KL per reply from the start: seeds x judged steps."""
        rows = self._of(self.clock, role, f"evaluation `{CLOCK[0]}`")
        return rows.pivot(index="seed", columns="step", values="value")

    def measured(self, role: str, evaluation: str, metric: str) -> pd.DataFrame:
        """What an evaluation measured: seeds x the steps that it looked at; NaN where there was
        nothing to measure.
        """
        return self._measured(role, evaluation, metric).pivot(
            index="seed", columns="step", values="value"
        )

    def units(self, role: str, evaluation: str, metric: str) -> int:
        """Over how many prompts, pairs or questions it was measured, at most."""
        return int(self._measured(role, evaluation, metric)["n"].max())

    def _measured(self, role: str, evaluation: str, metric: str) -> pd.DataFrame:
        rows = self._of(self.evaluations, role, f"evaluation `{evaluation}`")
        rows = rows[(rows["evaluation"] == evaluation) & (rows["metric"] == metric)]
        if rows.empty:
            fix = f"ask for it of '{self.roles[role]}' in the study"
            raise ValueError(f"{self.place}.{role}: no `{metric}` of `{evaluation}`; {fix}")
        return rows

    def level(self, *roles: str) -> float | None:
        """The largest of `LEVELS` that all seeds of these roles reach, None if there is none."""
        reached = min(self.nats(role).max(axis=1).min() for role in roles)
        return max((level for level in LEVELS if level <= reached), default=None)

    def at(self, role: str, level: float, values: pd.DataFrame) -> pd.Series:
        """Values (seeds x steps) where a run is `level` nats from its start, for the first time."""
        nats, found = self.nats(role), {}
        if missing := sorted(set(nats) - set(values)):
            fix = "ask for it at all checkpoints"
            raise ValueError(f"{self.place}.{role}: not measured at step {missing[0]}; {fix}")
        for seed, path in nats.iterrows():
            after = int((path.to_numpy() >= level).argmax())
            ends = np.sqrt(path.iloc[[after - 1, after]].to_numpy())
            there = values.loc[seed, path.index[[after - 1, after]]].to_numpy()
            found[seed] = np.interp(np.sqrt(level), ends, there)
        return pd.Series(found)

    def slope(self, role: str) -> pd.Series:
        """Slope of the prompts' drifts, in logits, over their log-odds at the start."""
        rows = self._of(self.logits, role, "logits")
        found = {}
        for seed, own in rows.groupby("seed"):
            odds = own.pivot(index="prompt_id", columns="step", values="log_odds")
            start, moved = odds.iloc[:, 0], odds.iloc[:, -1] - odds.iloc[:, 0]
            found[seed] = np.polyfit(start, moved, 1)[0]
        return pd.Series(found)

    def share(self, role: str) -> pd.DataFrame:
        """Stance share of KL: seeds x judged steps.

        At the start, where nothing has moved yet, it is that of the first step after it.
        """
        rows = self._of(self.logits, role, "logits").set_index(["seed", "step", "prompt_id"])
        parts = rows[["share_yes", "share_no"]]
        parts = parts.assign(rest=1 - parts.sum(axis=1)).clip(lower=1e-12)
        start = parts.xs(parts.index.get_level_values("step").min(), level="step")
        before = start.reindex(parts.index.droplevel("step")).to_numpy()
        apart = (parts * np.log(parts / before)).sum(axis=1).groupby(["seed", "step"]).mean()
        nats = self.nats(role)
        shares = apart.unstack("step")[nats.columns] / nats.where(nats > 0)
        return shares.bfill(axis=1)

    def against_kl(self, role: str) -> pd.DataFrame:
        """A role at its judged steps: step, means over seeds of kl (nats) and of the drifts of
        acquiescence and lean (log-odds), each with its standard deviation, and n_seeds.
        """
        nats = self.nats(role)
        values = {"kl": nats} | {m: self.drift(role, m)[nats.columns] for m in MEASURES}
        means = pd.DataFrame({name: table.mean() for name, table in values.items()})
        spread = {f"{name}_sd": table.std() for name, table in values.items()}
        return means.assign(**spread, n_seeds=len(nats)).reset_index()

    def _of(self, table: pd.DataFrame, role: str, what: str) -> pd.DataFrame:
        lineage = self.roles[role]
        rows = table[table["lineage"] == lineage]
        if rows.empty:
            fix = f"no {what} of '{lineage}'; ask for it in the study, or name another run"
            raise ValueError(f"{self.place}.{role}: {fix}")
        return rows


def _by_seed(table: pd.DataFrame) -> pd.DataFrame:
    names = split_seed(table["run"]).rename(columns={"name": "lineage"})
    return pd.concat([table.drop(columns="run"), names], axis=1)
