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
from vd.study import evaluations, rewards
from vd.study.catalogue import PUBLIC
from vd.study.graph import made_by_recipes
from vd.study.load import Study
from vd.study.recipes import asked_runs, find_run, judged_for, read_by, recipe_of, settings_of
from vd.study.runs import Run
from vd.study.settings import TrainingSettings
from vd.workflow.notebooks import code_cells

SERVERS = ("vd.servers", "vd.judging.api")
ENGINES = ("vd.probing.vllm", "vd.servers.vllm")
FIGURES = ("vd.figures",)
PREVIEW = ("vd.probing.preview",)  # replies that a notebook shows after training, and keeps nowhere
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
    of_study = [*OF_STUDY, "A1_vprism"] if study.asks_vprism else OF_STUDY
    jobs = [(notebook, None) for notebook in of_study]
    jobs += [("A2_recipe", f"recipes/{name}") for name in study.recipes]
    evaluated = study.evaluated()
    for run in study.runs().values():
        notebooks = [training_notebook(run)]
        if run.makes == "policy":
            notebooks += ["03_probe", "04_judge"] + ["04_evaluate"] * (run.id in evaluated)
        jobs += [(notebook, run.id) for notebook in notebooks if notebook]
    return jobs


def made_from(study: Study) -> dict[tuple[str, str | None], Fingerprint]:
    """What every job of a study is made from besides the files of other jobs, see `jobs_of`."""
    plan = _Plan(study)
    return {job: plan.made_from(*job) for job in jobs_of(study)}


def changed(record: Path, asked: Fingerprint) -> list[str]:
    """What differs from what a job was made from; nothing for a job that was never made."""
    # that one is made in any case: Snakemake finds its record missing, an output
    return asked.changes(record) if record.exists() else []


Reads = tuple[dict[str, object], list[str]]  # settings by name, and names of data sets


class _Plan:
    """What the jobs of one study read; what several of them share is found out once."""

    def __init__(self, study: Study):
        self.study, self.runs = study, study.runs()
        self.trained = [run for run in self.runs.values() if run.training]
        # Files that recipes make are not there yet when a workflow starts. What reads them waits
        # for the recipe's job and is made again after it.
        made = made_by_recipes(study).values()
        self.on_files = [run for run in self.trained if run.training.data not in made]
        self.trained_on = [name for run in self.on_files for name in run.training.data_sets]
        # tables and figures show runs in this order
        self.order = {"runs": list(self.runs)}
        # Kept for one plan and no longer: files may change before the next.
        self.code, self.content = cache(_code), cache(_content)
        self.built = self._built()
        self.probes = self.built if study.asks_vprism else ({}, [study.probing.probes])

    def made_from(self, notebook: str, about: str | None) -> Fingerprint:
        """What one job is made from."""
        settings, names = self._reads(notebook, about)
        return Fingerprint(
            **fingerprint.values(**settings),
            data={paths.anywhere(name): self.content(name) for name in sorted(set(names))},
            code=self._code_of(notebook, self._found_by_name(notebook, about), names),
        )

    def _code_of(self, notebook: str, roots: list[str], names: list[str]) -> dict[str, str]:
        """The code of a notebook, of what it finds by name, and of public data sets."""
        sets = [f"{plugins.module('data.public', name)}.*" for name in names if name in PUBLIC]
        roots = tuple(sorted({*roots, *sets}))
        return self.code(notebook, roots, _without(self.study, notebook))

    def _found_by_name(self, notebook: str, about: str | None) -> list[str]:
        """What a job finds by name, which no import shows."""
        study = self.study
        if notebook in TRAINING:
            method, settings = self.runs[about].method, self.runs[about].settings
            return [f"{plugins.module('methods', method)}.train", *rewards.code_of(settings)]
        if notebook == "04_evaluate":
            wanted = study.evaluation_settings(self.runs[about])
            return [f"{plugins.module(evaluations.ROOM, name)}.evaluate" for name in wanted]
        if notebook == "08_findings":
            return [f"{plugins.module('findings.papers', p)}.FINDINGS" for p in study.findings]
        if notebook == "A2_recipe":
            kind = study.recipes[about.partition("/")[2]]["recipe"]
            return [f"{plugins.module('recipes.kinds', kind)}.make"]
        return []

    def _reads(self, notebook: str, about: str | None) -> Reads:
        study, bootstrap = self.study, {"bootstrap": self.study.bootstrap}
        match notebook:
            case "00_data":
                return self._data()
            case "A1_vprism":
                settings, data = self.built
                return settings, [*data, *_of_prism(self.study), "prism_sample"]
            case "00_stance_profile":
                return self._stance_profile()
            case "01_given" | "01_sft" | "02_scorer" | "02_preference":
                return self._training(self.runs[about])
            case "03_probe":
                return self._probing(self.runs[about])
            case "04_judge":
                return self._judging()
            case "04_trust":
                settings, data = self._judging()
                return settings, data + [n for n in JUDGED_IF_THERE if reading.mirrored(n)]
            case "04_evaluate":
                return self._evaluating(self.runs[about])
            case "05_drift":
                settings, data = self.probes  # for their polarity
                return settings | bootstrap | self.order, data
            case "06_figures":
                settings, data = self.probes
                drawn = {"ablations": study.ablations, "evaluations": study.evaluations}
                return settings | drawn | self.order, data
            case "07_tables":
                return {"evaluations": list(study.evaluations)} | self.order, []
            case "08_findings":
                settings, data = self.probes
                return settings | {"findings": study.findings} | bootstrap | self.order, data
            case "A2_recipe":
                return self._recipe(about.partition("/")[2])
        raise ValueError(f"{notebook}: not a notebook of the workflow")

    def _data(self) -> Reads:
        settings, data = self.probes
        shown = {run.id: _shown(run) for run in self.on_files}
        data = [*data, "topics", *self.trained_on]
        return settings | {"probing": self.study.probing, "shown": shown}, data

    def _stance_profile(self) -> Reads:
        # data sets are judged by the offline judge alone
        judge = self.study.judge.model_copy(update={"api": None})
        there = [name for name in SHOWN_IF_THERE if reading.mirrored(name)]
        sets = sorted({f"{run.reads} {run.training.data}" for run in self.trained})
        settings = _judge(judge) | {"bootstrap": self.study.bootstrap, "sets": sets}
        return settings, ["judge", "probes", "topics", *SHOWN, *there, *self.trained_on]

    def _training(self, run: Run) -> Reads:
        settings = {"run": run, "files": _files(run.model_settings.source)}
        own = run.training.data_sets if run in self.on_files else []
        return settings | _elsewhere(run), own + rewards.reads(run.settings) + _vocabulary(run)

    def _probing(self, run: Run) -> Reads:
        settings, data = self.probes
        settings = settings | {"probing": self.study.probing, "model": run.model_settings}
        settings["files"] = _files(run.model_settings.source)
        return settings, [*data, *_vocabulary(run)]

    def _judging(self) -> Reads:
        settings, data = self.probes
        api = self.study.judge.api
        prompt = [str(paths.prompt(api.prompt))] if api else []
        data = [*data, *prompt, "judge", "judge_labelled", "probes"]
        return settings | _judge(self.study.judge), data

    def _evaluating(self, run: Run) -> Reads:
        # held out are rows of the SFT sets that no run of any seed trains on, on whatever data
        keys = TrainingSettings.drawn_by
        draws = {f"{run.training.model_dump(include=keys)} {run.seed}" for run in self.trained}
        study = self.study
        settings = {"evaluations": study.evaluation_settings(run), "bootstrap": study.bootstrap}
        own = [name for n, s in settings["evaluations"].items() for name in evaluations.reads(n, s)]
        return settings | {"draws": sorted(draws)}, [*self.trained_on, *own, *_vocabulary(run)]

    def _recipe(self, name: str) -> Reads:
        study, recipe = self.study, settings_of(self.study.recipes[name])
        of_safety = judged_for(recipe_of(study.recipes[name])) == "safety"
        judge = _judge(study.judge) if recipe.judge and not of_safety else {}
        # a prompt that is a probe stops a recipe, and random models know the probes' words
        settings, data = self.probes
        words = [word for run in writers(study, name) for word in _vocabulary(self.runs[run])]
        data = [*data, *words, *read_by(study.recipes[name])]
        return settings | {"recipe": recipe} | judge, data

    def _built(self) -> Reads:
        """The settings, code and data that probes are built from, which stand in for the probes.

        Those do not exist yet when a workflow starts.
        """
        vprism = self.study.vprism
        settings = {
            "vprism": vprism,
            "embedding files": _files(vprism.embedding.source),
            "built by": self._code_of("A1_vprism", [], vprism.source),
        }
        data = ["topics", "probes", "openers", "prism_labels", "judge", *vprism.source]
        return settings, data + ([str(paths.prompt("vprism-v1"))] if vprism.writer else [])


def _code(notebook: str, roots: tuple[str, ...], without: frozenset[str]) -> dict[str, str]:
    cells = code_cells(paths.notebook(notebook))
    return fingerprint.code(*roots, sources=cells, without=without)


def writers(study: Study, recipe: str) -> list[str]:
    """The runs, by id, that have to be trained before a recipe's data are written."""
    named = asked_runs(settings_of(study.recipes[recipe]))
    runs = [find_run(study, one) for one in named.values()]
    return list(dict.fromkeys(run.id for run in runs if run and not run.is_base))


def _elsewhere(run: Run) -> dict[str, object]:
    """The files of checkpoints that a run names but does not make."""
    places = getattr(run.settings, "checkpoints", {})
    return {f"files at {step}": _files(place) for step, place in places.items()}


def _judge(judge) -> dict[str, object]:
    return {"judge": judge, "judge files": _files(judge.source)}


def _shown(run: Run) -> dict[str, object]:
    """What 00_data shows of a run; how many examples it takes matters where no others are read."""
    keys = {"data", "filters", "swap_labels", "others", "aligned_with", "planted"}
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
    # Not hashes, which would read gigabytes of weights whenever a study is planned.
    stats = {file.name: file.stat() for file in there}
    return {name: f"{stat.st_size} {stat.st_mtime:.0f}" for name, stat in stats.items()}


def _without(study: Study, notebook: str) -> frozenset[str]:
    """Parts of vd that change no number of a notebook in this study."""
    if notebook == "A1_vprism":
        server = study.vprism.writer
    elif notebook == "A2_recipe":
        server = any(isinstance(entry.get("writer"), dict) for entry in study.recipes.values())
    else:
        server = study.judge.api or (notebook == "04_evaluate" and evaluations.ask_servers(study))
    without = {*(() if server else SERVERS), *(() if notebook in DRAWN else FIGURES)}
    without |= set() if study.probing.engine == "vllm" else set(ENGINES)
    return frozenset(without | set(PREVIEW if notebook in TRAINING else ()))


def _content(name: str) -> str:
    if name in PUBLIC:
        return reading.fingerprint(name)
    own = formats.is_file(name) or name.endswith(".yaml")
    file = paths.data_file(name) if own else paths.CORPORA / f"{name}.jsonl"
    return fingerprint.file_digest(file) if file.exists() else "not there yet"
