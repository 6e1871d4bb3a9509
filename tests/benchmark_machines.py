"""What another processor, another number type or another number of threads does to a study.

    VD_RESULTS=/elsewhere ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 ./reproduce.sh STUDY
    python tests/benchmark_machines.py STUDY /elsewhere "AVX2 in place of AVX-512 and AMX"

Compares drifts of all runs with those in another results folder, made from the same files, and
writes results/<study>/machines.csv: what changed, run, measure, here, there, their difference, and
the interval here. Rounding differs between processors; one other rounding changes a word, and from
there on replies are others, as are the batches that PPO learns from.
"""

import sys
from pathlib import Path

import pandas as pd

from vd import paths
from vd.store import files

NUMBERS = ["drift", "lo", "hi"]


def drifts(folder):
    """Drifts over all topics, seeds pooled, by run and measure, with their intervals."""
    judged = pd.read_csv(folder / "drift_seeds.csv")
    judged = judged.rename(columns={"stance": "measure", "magnitude": "drift"})
    judged = judged.rename(columns={"magnitude_lo": "lo", "magnitude_hi": "hi"})
    odds = pd.read_csv(folder / "logit_drift.csv")
    kinds = {"judged": judged, "log-odds": odds}
    parts = [table.assign(measure=f"{kind} " + table["measure"]) for kind, table in kinds.items()]
    table = pd.concat(parts)
    return table[table["topic"] == "all"].set_index(["run", "measure"])[NUMBERS]


def main():
    study, elsewhere, what = sys.argv[1:]
    here, there = (drifts(place / study) for place in (paths.results(""), Path(elsewhere)))
    table = here.join(there["drift"].rename("there"), how="inner").reset_index()
    if len(table) < len(here):
        sys.exit(f"{elsewhere}: {len(here) - len(table)} drifts are not there; run all of {study}")
    table = table.rename(columns={"drift": "here"}).assign(changed=what)
    table["difference"] = table["there"] - table["here"]
    table["inside"] = table["there"].between(table["lo"], table["hi"])
    columns = ["changed", "run", "measure", "here", "there", "difference", "lo", "hi", "inside"]
    files.write_table(table[columns], paths.results(study) / "machines.csv")
    sizes = table.groupby("measure")["difference"].agg(lambda own: own.abs().max())
    print(sizes.round(3).to_string())
    print(f"{table['inside'].mean():.0%} of drifts there lie in the interval here")


if __name__ == "__main__":
    main()
