"""Every table and figure of a study anew from its recorded runs, beside those in print.

    python -m vd STUDY --tables

Nothing is trained, asked or judged: replies, stances, log-odds, metrics and records of runs are
read as they lie in results/<study>/, which stays as it is, or in its recorded.zip. Texts and
integers have to be equal, floating-point numbers within a relative 1e-12.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.store.files import read_json
from vd.store.recorded import found
from vd.study.catalogue import PUBLIC
from vd.study.load import Study
from vd.study.recipes import read_by

# in this order: figures need the evaluations of all runs, which 07_tables gathers
NOTEBOOKS = ("05_drift", "07_tables", "06_figures", "08_findings")
# tables of data sets, made by 00_data and 00_stance_profile, which judges pairs: read, not made
OF_DATA = (
    "data_cards.csv",
    "pair_stances.parquet",
    "stance_mix.csv",
    "stance_profile.csv",
    "topic_share.csv",
    "value_gap.csv",
    "vprism.jsonl",
)
ALWAYS = ("pair_stances.parquet", "value_gap.csv")  # those that no study lacks
TOLERANCE = 1e-12


def rebuild(study: Study) -> dict[Path, list[str]]:
    """Make all anew in a folder of its own; what differs, a line each, by the file in print.

    FileNotFoundError, with the fix, where the runs of a study are not recorded.
    """
    sources = {file: found(file, study.name) for file in needed(study)}
    for name in OF_DATA:
        file = paths.table(study.name, name)
        sources |= {file: file} if name in ALWAYS or file.exists() else {}
    if missing := [file for file, source in sources.items() if not source.exists()]:
        fix = f"they are made by ./reproduce.sh {study.name}"
        said = f"{missing[0]}: {len(missing)} files of recorded runs are not there; {fix}"
        raise FileNotFoundError(said)
    with tempfile.TemporaryDirectory() as folder:
        pairs = _make(study, sources, Path(folder))
        return {old: list(differences(old, new)) for old, new in pairs}


def needed(study: Study) -> list[Path]:
    """The files of its runs that the tables of a study are made from, and what its recipes tried
    on prompts of ours.
    """
    name, evaluated = study.name, study.evaluated()
    files = [
        paths.recipe(name, recipe) / paths.TRIED
        for recipe, entry in study.recipes.items()
        if not PUBLIC.keys() & set(read_by(entry))
    ]
    for run in study.runs().values():
        if run.makes == "scorer":
            files.append(paths.record(name, run.id, "train"))
            continue
        files += [paths.responses(name, run.id), paths.stances(name, run.id)]
        files += [paths.record(name, run.id, "run")]
        files += [paths.metrics(name, run.id)] if run.training else []
        files += [paths.logits(name, run.id)] if study.probing.logits else []
        files += [paths.evaluations(name, run.id)] if run.id in evaluated else []
        files += [paths.judges(name, run.id)] if study.judge.members > 1 else []
    return files


def _make(study: Study, sources: dict[Path, Path], folder: Path) -> list[tuple[Path, Path]]:
    """Make tables and figures in `folder`; `sources` says of each file by its name in print where
    it is to be read. Pairs of a file in print and the one made now.
    """
    old, results = paths.results(study.name), folder / "results" / study.name
    for file, source in sources.items():
        copy = results / file.relative_to(old)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    read = {file for file in results.rglob("*") if file.is_file()}
    env = os.environ | {
        "VD_RESULTS": str(folder / "results"),
        "VD_FIGURES": str(folder / "figures"),
    }
    for name in NOTEBOOKS:
        print(name, flush=True)
        job = [sys.executable, "-m", "vd.workflow.job", os.getpid(), folder / f"{name}.made", "-"]
        job += ["papermill", paths.notebook(name), folder / f"{name}.ipynb"]
        words = [*map(str, job), "-r", "STUDY", study.name]
        if subprocess.run(words, cwd=paths.ROOT, env=env, check=False).returncode:
            raise RuntimeError(f"{name} could not be executed")  # the job has said why
    made = [file for file in results.rglob("*") if file.is_file() and file not in read]
    pairs = [(old / file.relative_to(results), file) for file in made]
    drawn = folder / "figures" / study.name
    pairs += [
        (printed, file)
        for file in drawn.glob("*.csv")
        # a data set's figure stands in print once, with one of the studies that take it
        if (printed := paths.figures(study.name) / file.name).exists() or file.name not in OF_DATA
    ]
    return sorted(pairs)


def differences(old: Path, new: Path) -> Iterator[str]:
    """Where two files of tables, JSON or text differ, one line each."""
    if not old.exists():
        yield "not in print"
        return
    if old.suffix in (".csv", ".parquet"):
        read = pd.read_csv if old.suffix == ".csv" else pd.read_parquet
        yield from _of_tables(read(old), read(new))
    elif old.suffix == ".json":
        one, other = (dict(_leaves(read_json(file))) for file in (old, new))
        for key in dict.fromkeys([*one, *other]):
            if not _equal(one.get(key), other.get(key)):
                yield f"{key}: {one.get(key)!r} is now {other.get(key)!r}"
    else:
        lines = [file.read_text(encoding="utf-8").splitlines() for file in (old, new)]
        for i, (before, now) in enumerate(zip(*lines, strict=False), start=1):
            if before != now:
                yield f"line {i}: {before[:80]!r} is now {now[:80]!r}"
        if len(lines[0]) != len(lines[1]):
            yield f"{len(lines[0])} lines are now {len(lines[1])}"


def _of_tables(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[str]:
    if list(old) != list(new) or len(old) != len(new):
        before, now = (f"{len(table)} rows of {', '.join(table)}" for table in (old, new))
        yield f"{before} are now {now}"
        return
    for name in old:
        one, other = old[name], new[name]
        if all(pd.api.types.is_float_dtype(column) for column in (one, other)):
            same = np.isclose(other, one, rtol=TOLERANCE, atol=0, equal_nan=True)
        else:
            same = (one == other) | (one.isna() & other.isna())
        for i in np.flatnonzero(~np.asarray(same, dtype=bool)):
            yield f"row {i}, {name}: {one.iloc[i]!r} is now {other.iloc[i]!r}"


def _leaves(content, place: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(content, dict | list):
        parts = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in parts:
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, content


def _equal(one, other) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(other, one, rtol=TOLERANCE, atol=0, equal_nan=True))
    return json.dumps(one) == json.dumps(other)
