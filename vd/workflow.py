"""What connects studies, notebooks and Snakemake: what a job is made from; making what is needed.

A job is a notebook that is executed for a run or for the whole study. It is run again when its
settings, its data or its code change. Its code is the notebook's code cells plus the vd modules
these import, directly or through others; prose, docstrings and outputs do not count. What a job was
made from is recorded beside its executed notebook, and that record decides: it holds in every
checkout that shares the results, so nothing in it says where a checkout lies.
"""

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from vd import files, launch, paths, public
from vd.study import Run, Settings, Study

SILENT = {"vd", "vd.launch", "vd.progress", "vd.workflow"}  # how jobs are run and what they say
SILENT |= {"vd.study_file", "vd.study_checks", "vd.study_inputs"}  # what is said of mistakes
API = {"vd.api_batch", "vd.api_cache", "vd.api_client", "vd.api_judge"}
DRAWN = ("06_figures", "07_tables", "08_findings")  # a new colour makes these anew and no others
SHOWN = ("sft_neutral", "sft_support", "value_gap", "low_gap")  # data sets in every stance profile,
SHOWN_IF_THERE = ("alpaca", "ultrafeedback", "hh-rlhf")  # and those of a mirror
JUDGED_IF_THERE = ("perspectrum", "argkp")  # to test judges
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_cells(notebook: Path) -> list[str]:
    """Sources of a notebook's code cells."""
    cells = json.loads(_text(notebook))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def parameters(notebook: Path) -> dict:
    """Names and defaults of a notebook's parameters: the literals of its cell tagged `parameters`."""
    cells = json.loads(_text(notebook))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: {len(tagged)} cells are tagged 'parameters'; tag exactly one")
    return {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse("".join(tagged[0]["source"])).body}


def imported(source: str) -> set[str]:
    """Modules of vd that a piece of code imports, as dotted names such as `vd.drift`."""
    return {name for name in _imports(source) if _file(name)}


def code_hash(notebook: Path, method: str | None = None, without: Iterable[str] = ()) -> str:
    """Hash of a notebook's code cells and of all vd modules behind them, the same for every Python.

    `method` adds a module that is found by name; `without` leaves modules out that change no number
    of this notebook.
    """
    sources, without = code_cells(notebook), SILENT | set(without)
    wanted = {f"vd.methods.{method}"} if method else set()
    seen, wanted = set(), wanted.union(*map(imported, sources)) - without
    while wanted:
        name = wanted.pop()
        seen.add(name)
        wanted |= imported(_text(_file(name))) - seen - without
    return _hash(*map(_tree, [*sources, *(_text(_file(name)) for name in sorted(seen))]))


def data_hash(*names: str) -> str:
    """Hash of data sets: a file's content, where a public one is read, a name without a file."""
    return _hash(*map(_content, sorted(set(names))))


def made_from(study: Study) -> dict[tuple[str, str | None], str]:
    """What every job of a study is made from besides the files of other jobs, by notebook and run.

    In words: hashes of settings, data and code. A job of the whole study has no run.
    """
    runs = study.runs()
    code, data = cache(code_hash), cache(data_hash)
    trains = {"base": [], "sft": ["01_sft"], "preference": ["02_preference"]}
    jobs = [(notebook, None) for notebook in ("00_data", "00_stance_profile", "05_drift", *DRAWN)]
    for run in runs.values():
        jobs += [(notebook, run.id) for notebook in [*trains[run.phase], "03_probe", "04_judge"]]
    asked = {}
    for notebook, run_id in jobs:
        settings, names = _reads(study, runs, notebook, run_id)
        method = runs[run_id].method if notebook in ("01_sft", "02_preference") else None
        parts = {
            "settings": _hash(*map(_as_text, settings)),
            "data": data(*names),
            "code": code(paths.notebook(notebook), method, _without(study, notebook)),
        }
        asked[notebook, run_id] = " ".join(f"{part}={value}" for part, value in parts.items())
    return asked


def changed(record: Path, asked: str) -> list[str]:
    """Which of settings, data and code differ from what a job was made from; none for a new job."""
    before = _text(record).split() if record.exists() else asked.split()
    return [part.partition("=")[0] for part in asked.split() if part not in before]


def make(study: str, *targets: Path) -> None:
    """Make files that do not exist yet by running the workflow, so that every notebook runs alone.

    Says nothing while it does: what a cell prints must not depend on what was there before. Raises
    RuntimeError with what Snakemake said.
    """
    missing = [target for target in targets if not target.exists()]
    if missing:
        names = [os.path.relpath(target, launch.directory(study)) for target in missing]
        code, said = launch.snakemake(study, ["--", *names])
        if code:
            what = f"the workflow could not make {', '.join(names)}:"
            raise RuntimeError("\n".join([what, *said[-60:]]))


def _reads(
    study: Study, runs: dict[str, Run], notebook: str, run_id: str | None
) -> tuple[list[Settings | str], list[str]]:
    """The settings and the data sets that a job reads."""
    order, trained = list(runs), [run for run in runs.values() if run.settings]
    trained_on = [run.settings.data for run in trained]
    match notebook:
        case "00_data":
            settings, data = _built(study)
            settings += [study.probing, *sorted(map(_shown, trained))]
            data += [*_probes(study)[1], *_of_prism(study), "prism_sample", *trained_on]
            return settings, data
        case "00_stance_profile":
            judge = study.judge.model_copy(update={"api": None})
            there = [name for name in SHOWN_IF_THERE if public.mirrored(name)]
            sets = sorted({f"{run.phase} {run.settings.data}" for run in trained})
            settings = [judge, _files(judge.source), study.bootstrap, *sets]
            return settings, ["judge", "probes", "topics", *SHOWN, *there, *trained_on]
        case "01_sft" | "02_preference":
            run = runs[run_id]
            return [run, _files(run.model_settings.source)], [run.settings.data, *_vocabulary(run)]
        case "03_probe":
            run = runs[run_id]
            settings, data = _probes(study)
            settings += [study.probing, run.model_settings, _files(run.model_settings.source)]
            return settings, [*data, *_vocabulary(run)]
        case "04_judge":
            settings, data = _probes(study)
            data += [name for name in JUDGED_IF_THERE if public.mirrored(name)]
            data += [str(paths.prompt(study.judge.api.prompt))] if study.judge.api else []
            settings += [study.judge, _files(study.judge.source)]
            return settings, [*data, "judge", "judge_labelled", "probes"]
        case "05_drift":
            return [study.bootstrap, *order], []
        case "06_figures":
            ablations = [part for pair in study.ablations.items() for part in pair]
            return [*ablations, *order], []
        case "07_tables":
            return order, []
        case "08_findings":
            return [study.findings, study.bootstrap, *order], []
    raise ValueError(f"{notebook}: not a notebook of the workflow")


def _built(study: Study) -> tuple[list[Settings | str], list[str]]:
    """The settings, code and data that probes are built from, which stand in for the probes.

    Those do not exist yet when a workflow starts, and 00_data writes them anew when a run is added.
    """
    settings = [study.vprism, _files(study.vprism.embedding.source)]
    settings.append(code_hash(paths.notebook("00_data"), None, _without(study, "00_data")))
    data = ["topics", "probes", "openers", "prism_labels", "judge", *study.vprism.source]
    return settings, data + ([str(paths.prompt("vprism-v1"))] if study.vprism.writer else [])


def _probes(study: Study) -> tuple[list[Settings | str], list[str]]:
    """What the probes of a study are made from: what they are built from, or their data set."""
    return _built(study) if study.asks_vprism else ([], [study.probing.probes])


def _shown(run: Run) -> str:
    """What 00_data shows of a run; how many examples it takes matters where no others are read."""
    keys = {"data", "filters", "swap_labels"}
    data = public.PUBLIC.get(run.settings.data)
    keys |= {"examples"} if data and data.large else set()
    return run.model_dump_json(include=dict.fromkeys(("id", "method"), True) | {"settings": keys})


def _vocabulary(run: Run) -> list[str]:
    """Random models take their tokens from the embedded probes."""
    return ["probes"] if run.model_settings.source.startswith("random:") else []


def _of_prism(study: Study) -> list[str]:
    """PRISM's own clusters, where a mirror has them."""
    if not public.mirror() or "prism" not in study.vprism.source:
        return []
    return [str(file) for file in sorted((public.mirror() / "prism").glob("cluster*.csv"))]


def _files(source: str) -> str:
    """The files of a model that is a local folder: their names, sizes and times."""
    folder = paths.ROOT / source
    there = sorted(file for file in folder.glob("*") if file.is_file()) if folder.is_dir() else []
    stats = {file.name: file.stat() for file in there}
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime:.0f}" for name, stat in stats.items())


def _without(study: Study, notebook: str) -> frozenset[str]:
    """Modules that change no number of a notebook in this study."""
    server = study.vprism.writer if notebook == "00_data" else study.judge.api
    return frozenset((set() if server else API) | (set() if notebook in DRAWN else {"vd.plots"}))


def _as_text(part: Settings | str) -> str:
    return part if isinstance(part, str) else part.model_dump_json()


def _content(name: str) -> str:
    if name in public.PUBLIC:
        return public.fingerprint(name)
    own = files.is_file(name) or name.endswith(".yaml")
    file = paths.data_file(name) if own else paths.CORPORA / f"{name}.jsonl"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else name


@cache
def _imports(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vd":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "vd"}
    return names


@cache
def _tree(source: str) -> str:
    """Hash of a syntax tree, which knows no comments, no layout and, here, no docstrings.

    Neither `ast.dump` nor `ast.unparse` will do: Python 3.12 and 3.13 write the same tree
    differently from 3.11, and some parsers leave empty pieces in f-strings.
    """

    def plain(node):
        if isinstance(node, list):
            return [plain(element) for element in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        fields = dict(ast.iter_fields(node))
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            fields["body"] = node.body[1:]
        if isinstance(node, ast.JoinedStr):
            fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]
        fields = {name: plain(field) for name, field in fields.items() if field not in (None, [])}
        return [type(node).__name__, fields]

    return _hash(json.dumps(plain(ast.parse(source)), sort_keys=True))


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _file(module: str) -> Path | None:
    """The file of a vd module, or None if the name is not a module."""
    path = paths.ROOT / module.replace(".", "/")
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()), None)
