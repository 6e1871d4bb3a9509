"""Verdicts on a study's findings, from their contrasts.

p_holds, p_fails  one-sided, from Student's t of estimate / standard error with the degrees of
                  freedom of the drift intervals: a share of 2,000 replicates could not go below
                  1/2000, and three seeds need the t; intervals are estimate -+ t standard
                  errors
p_equal           that a difference is smaller than the smallest effect of interest: the larger
                  p of two one-sided tests (TOST; Schuirmann 1987)
conjunction       holds if all contrasts do: p_holds is the largest (intersection-union test),
                  and so is p_equal; fails if any one is shown to be negative: p_fails is the
                  smallest, times their number
verdict           holds or does not hold: two-sided p = 2 min(p_holds, p_fails), after Holm over
                  all findings of one paper, below alpha; each paper is a family of its own, so
                  that naming another one changes no verdict. Else practically equal: p_equal,
                  after Holm in the same family, below alpha. Else undecided. One seed gets no
                  verdict: its intervals are about these weights, not about this training
"""

import numpy as np
import pandas as pd

from vd.data.probes import load_probes
from vd.drift.traces import Traces
from vd.findings.contrasts import Evidence
from vd.findings.finding import Finding
from vd.findings.student import CONTRAST, PROBABILITY, untested
from vd.lineages import of_model
from vd.study import roles
from vd.study.load import Study
from vd.study.settings import Bootstrap
from vd.study.types import Settings

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided at this size"
EQUAL, ONE_SEED = "practically equal", "one seed: no verdict"
DATA = "data"  # in place of a model, for findings on data sets


def evaluate(
    study: Study,
    stances: pd.DataFrame,
    pairs: pd.DataFrame,
    logits: pd.DataFrame | None = None,
    measured: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Verdicts on all findings whose roles the study names: one row per finding and model, and one
    per contrast, paper by paper; `reported` is what a paper is said to have for it.

    `stances` are those of all runs; `pairs` has dataset, prompt_id, topic, side (chosen or
    rejected), p_support, p_neutral, p_oppose, and decides the findings on data sets, whose model is
    `data`; `logits` and `measured`, logit stances and evaluations of all runs, are needed by papers
    that read them. Estimate, interval and effect are those of the weakest contrast; the effect is
    the estimate over the standard deviation between prompts (Cohen's d). A finding on a data set of
    which no pair could be judged stays undecided, and does not count as a test. Holm corrects for
    the findings of one paper. Where a study names several papers, findings are called
    `paper.finding`, else `finding` alone. Raises ValueError if a role names another run or data set
    without judged replies.
    """
    parts = _by_model(study, stances, pairs)
    entries = [*study.sft.values(), *study.preference.values()]
    # data sets that runs train on and of which no pair was judged
    empty = {entry.get("data") for entry in entries} - set(pairs["dataset"])
    polarity = load_probes(study.probing).set_index("prompt_id")["polarity"]
    table, contrasts = [], []
    for paper, played in roles.played(study).items():
        prefix = f"{paper}." if len(study.findings) > 1 else ""
        for model, part, of_data in parts:
            traces = None
            if not of_data and logits is not None and measured is not None:
                own = [of_model(table, model) for table in (logits, measured)]
                traces = Traces(*own, polarity, played.model_dump(), f"findings.{paper}")
            evidence = Evidence(part, paper, played, study.bootstrap, traces)
            for finding in _findings(paper, played, of_data):
                tests = _tests(finding, evidence, empty if of_data else set())
                about = {"source": paper, "model": model, "finding": prefix + finding.key}
                reported = finding.reported.get
                contrasts += [about | t | {"reported": reported(t["contrast"])} for t in tests]
                table.append(about | _decide(finding, tests))
    columns = ["source", "model", "finding", "statement", "paper", *CONTRAST]
    return (
        _judge(pd.DataFrame(table, columns=columns), study.bootstrap),
        pd.DataFrame(contrasts, columns=["model", "finding", *CONTRAST, "reported"]),
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
    parts = [(m, of_model(stances, m).reset_index(drop=True), False) for m in study.models]
    # told apart by the flag, since a model may be called `data` as well
    return [*parts, (DATA, sides.reset_index(drop=True), True)]


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
    said = "no pair of {} was judged"
    nothing = [
        untested(said.format(role), PROBABILITY)
        for role in finding.roles
        if evidence.roles[role] in empty
    ]
    return nothing or finding.contrasts(evidence)


def _decide(finding: Finding, tests: list[dict]) -> dict:
    """One row for all contrasts of a finding, with the numbers of the weakest one."""
    # what could not be tested is the weakest part of a claim, and leaves it undecided
    weakest = max(tests, key=lambda test: (np.isnan(test["p_holds"]), test["p_holds"]))
    # Bonferroni: to fail it is enough that one contrast does; NaN where one could not be tested
    p_fails = float(np.minimum(1.0, len(tests) * np.min([test["p_fails"] for test in tests])))
    about = {"statement": finding.statement, "paper": finding.paper}
    # all contrasts have to be practically 0; NaN where one of them has no margin
    p_equal = float(np.max([test["p_equal"] for test in tests]))
    n_seeds = min(test["n_seeds"] for test in tests)
    return about | weakest | {"p_fails": p_fails, "p_equal": p_equal, "n_seeds": n_seeds}


def _judge(table: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Add two-sided p values, Holm's for each paper, and verdicts."""
    p = np.minimum(1, 2 * table[["p_holds", "p_fails"]].min(axis=1, skipna=False).to_numpy(float))
    p_equal = table["p_equal"].to_numpy(float)
    above = (table["p_holds"] < table["p_fails"]).to_numpy()
    p_holm, equal_holm, verdict = p.copy(), p_equal.copy(), np.empty(len(p), object)
    for source in table["source"].unique():
        own = (table["source"] == source).to_numpy()
        p_holm[own], equal_holm[own], verdict[own] = verdicts(
            p[own], p_equal[own], above[own], bootstrap.alpha
        )
    # of data sets, whose pairs are all there is to sample, no seed is asked for
    alone = table["n_seeds"].eq(1) & table["model"].ne(DATA)
    table = table.assign(
        p=p, p_holm=p_holm, p_equal=equal_holm, verdict=np.where(alone, ONE_SEED, verdict)
    )
    names = "model finding statement estimate lo hi p p_holm p_equal verdict effect paper"
    return table[[*names.split(), "n_seeds", "n_prompts"]]


def verdicts(
    p: np.ndarray, p_equal: np.ndarray, above: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both p values after Holm over the family that these findings are, and verdicts.

    `above` says whether a finding's weakest contrast is above zero. NaN, where there was nothing to
    test, stays NaN and is no member of the family.
    """
    p_holm, equal_holm = p.copy(), p_equal.copy()
    for adjusted in (p_holm, equal_holm):
        tested = ~np.isnan(adjusted)
        adjusted[tested] = holm(adjusted[tested])
    side = np.where(above, HOLDS, FAILS)
    equal = np.where(equal_holm < alpha, EQUAL, UNDECIDED)
    return p_holm, equal_holm, np.where(p_holm < alpha, side, equal)


def holm(p: np.ndarray) -> np.ndarray:
    """P values adjusted for testing all of them (Holm 1979).

    Ascending, times how many are left, never falling.
    """
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
