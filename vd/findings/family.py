"""One family of tests: `python -m vd.findings.family` writes results/findings.csv.

Several studies speak to the same findings, and the more often one asks, the more holds by chance.
Each study's own correction (vd/findings/verdicts.py) covers the findings of one paper in that
study; here Holm's covers all findings of all studies whose results are there.
"""

import pandas as pd

from vd import paths
from vd.findings.verdicts import DATA, ONE_SEED, verdicts
from vd.store import files

FILE = "findings.csv"
NUMBERS = ["estimate", "lo", "hi", "n_seeds", "p", "p_equal"]  # of a study's findings.json
COLUMNS = ["study", "model", "finding", *NUMBERS[:-1]]
COLUMNS += ["p_family", "p_equal_family", "verdict_in_study", "verdict"]


def family(alpha: float = 0.05) -> pd.DataFrame:
    """Every finding that has a verdict in its study, corrected for all of them together.

    One row per study, model and finding: estimate and interval of its weakest contrast, `p` as it
    is, `p_family` and `p_equal_family` after Holm, the verdict in the study and the one in the
    family. A study of one seed takes no part but for its findings on data sets.
    """
    found = [
        pd.DataFrame(files.read_json(file)["findings"]).assign(study=file.parent.name)
        for file in sorted(paths.results("").glob("*/findings.json"))
    ]
    if not found:
        return pd.DataFrame(columns=COLUMNS)
    read = ["study", "model", "finding", "verdict", *NUMBERS]
    table = pd.concat(found, ignore_index=True).reindex(columns=read)
    # by the number of seeds too: the oldest results gave verdicts on one
    alone = table["verdict"].eq(ONE_SEED) | (table["n_seeds"].eq(1) & table["model"].ne(DATA))
    table = table[~alone & table["p"].notna()].rename(columns={"verdict": "verdict_in_study"})
    p, p_equal, estimate = (table[name].to_numpy(float) for name in ("p", "p_equal", "estimate"))
    names = ("p_family", "p_equal_family", "verdict")
    judged = dict(zip(names, verdicts(p, p_equal, estimate > 0, alpha), strict=True))
    return table.assign(**judged)[COLUMNS].reset_index(drop=True)


def main() -> None:
    """Write the table and say what it holds."""
    table = family()
    files.write_table(table, paths.results("") / FILE)
    changed = int((table["verdict"] != table["verdict_in_study"]).sum())
    print(f"{len(table)} findings of {table['study'].nunique()} studies in one family")
    print(f"{changed} of them have another verdict here than in their study")
    shown = ["study", "finding", "estimate", "p_family", "p_equal_family", "verdict"]
    print(table[shown].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
