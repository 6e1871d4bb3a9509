"""What counts as a difference between tables in print and those made anew."""

import numpy as np
import pandas as pd
import pytest

from vd.store import files
from vd.workflow.rebuild import differences

TABLE = pd.DataFrame({"run": ["a", "b", None], "n": [1, 2, 3], "x": [0.1, np.nan, 3.0]})


def said(folder, old, new, name):
    """Differences between two contents of a file."""
    for place, content in (("old", old), ("new", new)):
        if isinstance(content, pd.DataFrame):
            files.write_table(content, folder / place / name)
        elif isinstance(content, dict):
            files.write_json(content, folder / place / name)
        else:
            files.write_text(content, folder / place / name)
    return list(differences(folder / "old" / name, folder / "new" / name))


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_tables_may_differ_by_rounding_and_no_more(tmp_path, name):
    rounded = TABLE.assign(x=TABLE["x"] * (1 + 1e-13))
    assert said(tmp_path, TABLE, rounded, name) == []
    other = TABLE.assign(x=TABLE["x"] * (1 + 1e-11), n=[1, 2, 4], run=["a", "c", None])
    found = said(tmp_path, TABLE, other, name)
    assert [line.partition(":")[0] for line in found] == [
        "row 1, run",
        "row 2, n",
        "row 0, x",
        "row 2, x",
    ]
    assert said(tmp_path, TABLE, TABLE.fillna({"x": 1.0, "run": "c"}), name)[0].startswith("row 2")
    assert "3 rows of run, n, x are now 2 rows" in said(tmp_path, TABLE, TABLE.head(2), name)[0]
    assert "are now 3 rows of n, x" in said(tmp_path, TABLE, TABLE[["n", "x"]], name)[0]


def test_json_and_texts_too(tmp_path):
    old = {"a": [{"x": 0.1, "n": 1}], "b": "text"}
    assert (
        said(tmp_path, old, {"a": [{"x": 0.1 * (1 + 1e-13), "n": 1}], "b": "text"}, "a.json") == []
    )
    assert said(tmp_path, old, {"a": [{"x": 0.1, "n": True}], "b": None}, "a.json") == [
        "a.0.n: 1 is now True",
        "b: 'text' is now None",
    ]
    assert said(tmp_path, "one\ntwo\n", "one\n2\nthree\n", "page.md") == [
        "line 2: 'two' is now '2'",
        "2 lines are now 3",
    ]
    assert list(differences(tmp_path / "none.csv", tmp_path / "new" / "page.md")) == [
        "not in print"
    ]
