"""Which jobs a study needs, and what each is made from.

A job is a notebook that is executed for a run or for the whole study. It is run again when its
settings, its data or its code change, see vd/store/fingerprint.py. What a job was made from is
recorded beside its executed notebook, and that record decides: it holds in every checkout that
shares the results, so nothing in it says where a checkout lies.
"""

from functools import cache
from pathlib import Path

from vd import paths, plugins
from vd.data import reading
from vd.store import fingerprint, formats
from vd.store.fingerprint import Fingerprint
from vd.study.catalogue import PUBLIC
from vd.study.graph import made_by_recipes
from vd.study.load import Study
from vd.study.recipes import find_run
from vd.study.runs import Run
from vd.workflow.notebooks import code_cells

SERVERS = ("vd.servers", "vd.judging.api")
FIGURES = ("vd.figures",)
DRAWN = ("06_figures", "07_tables", "08_findings")  # a new colour makes these anew and no others
OF_STUDY = ("00_data", "00_stance_profile", "04_trust", "05_drift", *DRAWN)
TRAINING = ("01_given", "01_sft", "02_scorer", "02_preference")
SHOWN = ("sft_neutral", "sft_support", "value_gap", "low_gap")  # data sets in every stance profile,
SHOWN_IF_THERE = ("alpaca", "ultrafeedback", "hh-rlhf")  # and those of a mirror
JUDGED_IF_THERE = ("perspectrum", "argkp")  # to test judges


def training_notebook(run: Run) -> str | None:
    """The notebook that makes a run's checkpoints; None for the base model, which has none."""
    if run.is_base:
        return None
    if run.makes == "scorer":
        return "02_scorer"
    return {None: "01_given", "texts": "01_sft"}.get(run.reads, "02_preference")


def jobs_of(study: Study) -> list[tuple[str, str | None]]:
    """All jobs by notebook and what they are for: None (the study), a run, or recipes/<name>."""
    jobs = [(notebook, None) for notebook in OF_STUDY]
    jobs += [("09_recipe", f"recipes/{name}") for name in study.recipes]
    for run in study.runs().values():
        notebooks = [training_notebook(run)]
        if run.makes == "policy":
            notebooks += ["03_probe", "04_judge"] + ["04_evaluate"] * bool(study.evaluations)
        jobs += [(notebook, run.id) for notebook in notebooks if notebook]
    return jobs


def made_from(study: Study) -> dict[tuple[str, str | None], Fingerprint]:
    """What every job of a study is made from besides the files of other jobs, see `jobs_of`."""
    runs, asked, code, data = study.runs(), {}, cache(_code), cache(_content)
    for notebook, about in jobs_of(study):
        settings, names = _reads(study, runs, notebook, about)
        roots = _found_by_name(study, runs, notebook, about)
        roots += [f"{plugins.module('data.public', name)}.*" for name in names if name in PUBLIC]
        asked[notebook, about] = Fingerprint(
            **fingerprint.values(**settings),
            data={name: data(name) for name in sorted(set(names))},
            code=code(notebook, tuple(sorted(set(roots))), _without(study, notebook)),
        )
    return asked


def changed(record: Path, asked: Fingerprint) -> list[str]:
    """What differs from what a job was made from; nothing for a job that was never made."""
    return asked.changes(record) if record.exists() else []


def _code(notebook: str, roots: tuple[str, ...], without: frozenset[str]) -> dict[str, str]:
    """The code of a notebook and of what it finds by name."""
    cells = code_cells(paths.notebook(notebook))
    return fingerprint.code(*roots, sources=cells, without=without)


def _found_by_name(study: Study, runs: dict[str, Run], notebook: str, about) -> list[str]:
    """What a job finds by name, which no import shows."""
    if notebook in TRAINING:
        return [f"{plugins.module('methods', runs[about].method)}.train"]
    if notebook == "04_evaluate":
        return [f"{plugins.module('evaluations.metrics', n)}.evaluate" for n in study.evaluations]
    if notebook == "08_findings":
        return [f"{plugins.module('findings.papers', name)}.FINDINGS" for name in study.findings]
    if notebook == "09_recipe":
        kind = study.recipes[about.partition("/")[2]]["recipe"]
        return [f"{plugins.module('recipes.kinds', kind)}.make"]
    return []


def _reads(
    study: Study, runs: dict[str, Run], notebook: str, about: str | None
) -> tuple[dict[str, object], list[str]]:
    """The settings, by name, and the data sets that a job reads."""
    # Files that recipes make are not there yet when a workflow starts. What reads them waits for
    # the recipe's job and is made again after it.
    made = made_by_recipes(study).values()
    order, trained = {"runs": list(runs)}, [run for run in runs.values() if run.training]
    trained_on = [run.training.data for run in trained if run.training.data not in made]
    match notebook:
        case "00_data":
            settings, data = _built(study)
            shown = {run.id: _shown(run) for run in trained if run.training.data not in made}
            data += [*_probes(study)[1], *_of_prism(study), "prism_sample", *trained_on]
            return settings | {"probing": study.probing, "shown": shown}, data
        case "00_stance_profile":
            judge = study.judge.model_copy(update={"api": None})
            there = [name for name in SHOWN_IF_THERE if reading.mirrored(name)]
            sets = sorted({f"{run.reads} {run.training.data}" for run in trained})
            settings = _judge(judge) | {"bootstrap": study.bootstrap, "sets": sets}
            return settings, ["judge", "probes", "topics", *SHOWN, *there, *trained_on]
        case "01_given" | "01_sft" | "02_scorer" | "02_preference":
            run = runs[about]
            settings = {"run": run, "files": _files(run.model_settings.source)}
            own = [run.training.data] if run.training and run.training.data not in made else []
            return settings | _elsewhere(run), [*own, *_vocabulary(run)]
        case "03_probe":
            run = runs[about]
            settings, data = _probes(study)
            settings = settings | {"probing": study.probing, "model": run.model_settings}
            settings["files"] = _files(run.model_settings.source)
            return settings, [*data, *_vocabulary(run)]
        case "04_judge" | "04_trust":
            settings, data = _probes(study)
            data += [str(paths.prompt(study.judge.api.prompt))] if study.judge.api else []
            data += ["judge", "judge_labelled", "probes"]
            if notebook == "04_judge":
                return settings | _judge(study.judge), data
            data += [name for name in JUDGED_IF_THERE if reading.mirrored(name)]
            return settings | _judge(study.judge), data
        case "04_evaluate":
            # held out are rows of the SFT sets that no run of any seed trains on, on whatever data
            draws = {
                f"{r.training.data} {r.training.filters} {r.training.examples} {r.seed}"
                for r in trained
            }
            settings = {"evaluations": study.evaluations, "bootstrap": study.bootstrap}
            return settings | {"draws": sorted(draws)}, [*trained_on, *_vocabulary(runs[about])]
        case "05_drift":
            return {"bootstrap": study.bootstrap} | order, []
        case "06_figures":
            return {"ablations": study.ablations, "evaluations": study.evaluations} | order, []
        case "07_tables":
            return {"evaluations": list(study.evaluations)} | order, []
        case "08_findings":
            return {"findings": study.findings, "bootstrap": study.bootstrap} | order, []
        case "09_recipe":
            name = about.partition("/")[2]
            entry = study.recipes[name]
            judge = _judge(study.judge) if entry.get("judge", True) else {}
            # a prompt that is a probe stops a recipe, and random models know the probes' words
            settings, data = _probes(study)
            data += [word for run in writers(study, name) for word in _vocabulary(runs[run])]
            data += ["judge"] if judge else []
            return settings | {"recipe": entry} | judge, [*data, *_prompts_of(entry)]
    raise ValueError(f"{notebook}: not a notebook of the workflow")


def writers(study: Study, recipe: str) -> list[str]:
    """The runs, by id, that have to be trained before a recipe's data are written."""
    writer = study.recipes[recipe]["writer"]
    run = find_run(study, writer) if isinstance(writer, str) else None
    return [run.id] if run and not run.is_base else []


def _elsewhere(run: Run) -> dict[str, object]:
    """The files of checkpoints that a run names but does not make."""
    places = getattr(run.settings, "checkpoints", {})
    return {f"files at {step}": _files(place) for step, place in places.items()}


def _prompts_of(entry: dict) -> list[str]:
    name = entry.get("prompts")
    return [name] if isinstance(name, str) else []


def _judge(judge) -> dict[str, object]:
    return {"judge": judge, "judge files": _files(judge.source)}


def _built(study: Study) -> tuple[dict[str, object], list[str]]:
    """The settings, code and data that probes are built from, which stand in for the probes.

    Those do not exist yet when a workflow starts, and 00_data writes them anew when a run is added.
    """
    sets = [name for name in study.vprism.source if name in PUBLIC]
    roots = tuple(f"{plugins.module('data.public', name)}.*" for name in sets)
    code = _code("00_data", roots, _without(study, "00_data"))
    settings = {
        "vprism": study.vprism,
        "embedding files": _files(study.vprism.embedding.source),
        "built by": code,
    }
    data = ["topics", "probes", "openers", "prism_labels", "judge", *study.vprism.source]
    return settings, data + ([str(paths.prompt("vprism-v1"))] if study.vprism.writer else [])


def _probes(study: Study) -> tuple[dict[str, object], list[str]]:
    """What the probes of a study are made from: what they are built from, or their data set."""
    return _built(study) if study.asks_vprism else ({}, [study.probing.probes])


def _shown(run: Run) -> dict[str, object]:
    """What 00_data shows of a run; how many examples it takes matters where no others are read."""
    keys = {"data", "filters", "swap_labels"}
    data = PUBLIC.get(run.training.data)
    keys |= {"examples"} if data and data.large else set()
    return {"method": run.method, **run.settings.model_dump(include=keys)}


def _vocabulary(run: Run) -> list[str]:
    """Random models take their tokens from the embedded probes."""
    return ["probes"] if run.model_settings.source.startswith("random:") else []


def _of_prism(study: Study) -> list[str]:
    """PRISM's own clusters, where a mirror has them."""
    if not reading.mirror() or "prism" not in study.vprism.source:
        return []
    return [str(file) for file in sorted((reading.mirror() / "prism").glob("cluster*.csv"))]


def _files(source: str) -> dict[str, str]:
    """The files of a model that is a local folder: names, with sizes and times."""
    folder = paths.data_file(source)  # one in results/ may lie elsewhere, see vd/paths.py
    there = sorted(file for file in folder.glob("*") if file.is_file()) if folder.is_dir() else []
    stats = {file.name: file.stat() for file in there}
    return {name: f"{stat.st_size} {stat.st_mtime:.0f}" for name, stat in stats.items()}


def _without(study: Study, notebook: str) -> frozenset[str]:
    """Parts of vd that change no number of a notebook in this study."""
    server = study.vprism.writer if notebook == "00_data" else study.judge.api
    return frozenset({*(() if server else SERVERS), *(() if notebook in DRAWN else FIGURES)})


def _content(name: str) -> str:
    if name in PUBLIC:
        return reading.fingerprint(name)
    own = formats.is_file(name) or name.endswith(".yaml")
    file = paths.data_file(name) if own else paths.CORPORA / f"{name}.jsonl"
    return fingerprint.file_digest(file) if file.exists() else "not there yet"
