"""A study is one YAML file, `notebooks/configs/<study>.yaml`; all that later stages do follows from
it.

Its mistakes are reported before any work starts, as a `StudyError` that names file, key and fix:

    vd/study/file.py       how the file is written
    vd/study/extends.py    what it takes over from another study
    vd/study/settings.py   what each key may hold, by its type
    vd/study/checks.py     what keys have to do with each other
    vd/study/inputs.py     what has to be there: models, data sets, probes, prompts, methods
"""

import importlib

from pydantic import (
    Field,
    ValidationError,
)

from vd import paths
from vd.study import checks, extends, inputs
from vd.study.file import StudyError, explain, find, read, shown, study_error, word
from vd.study.runs import Run
from vd.study.settings import (
    Ablation,
    Bootstrap,
    JudgeSettings,
    ModelSettings,
    PreferenceSettings,
    Probing,
    TrainingSettings,
    VPrismSettings,
)
from vd.study.types import Names, Seeds, Settings


class Study(Settings):
    """A whole study. `runs()` expands it to every run of every model and seed, parents first."""

    name: str
    seeds: Seeds
    models: dict[str, ModelSettings] = Field(min_length=1)
    sft: dict[str, dict] = Field(min_length=1)
    preference: dict[str, dict] = {}
    vprism: VPrismSettings = VPrismSettings()
    probing: Probing = Probing()
    judge: JudgeSettings = JudgeSettings()
    bootstrap: Bootstrap = Bootstrap()
    ablations: dict[str, Ablation] = {}
    findings: dict[str, dict] = {}  # roles of each paper, see vd/study/roles.py

    def runs(self) -> dict[str, Run]:
        """All runs by id, every parent before its children."""
        settings = {
            (section, name): _method_settings(section, entry)
            for section, entries in (("sft", self.sft), ("preference", self.preference))
            for name, entry in entries.items()
        }
        found = {}
        for model in self.models:
            for seed in self.seeds:
                for run in self._lineage(model, seed, settings):
                    found[run.id] = run
        return found

    @property
    def asks_vprism(self) -> bool:
        """Whether the probes are the V-PRISM that the study builds, results/<study>/vprism.jsonl."""
        return paths.data_file(self.probing.probes) == paths.vprism(self.name)

    def run(self, run_id: str) -> Run:
        """The run with this id."""
        runs = self.runs()
        if run_id not in runs:
            raise StudyError(
                f"{paths.config(self.name)}: no run '{run_id}'; its runs are {', '.join(runs)}"
            )
        return runs[run_id]

    def _lineage(self, model: str, seed: int, settings: dict):
        def make(phase, name, entry, parent, folder):
            return Run(
                study=self.name,
                model=model,
                model_settings=self.models[model],
                phase=phase,
                name=name,
                method=entry.get("method", "sft") if phase != "base" else None,
                settings=settings.get((phase, name)),
                seed=seed,
                parent=parent,
                id=f"{folder}/seed-{seed}",
            )

        base = make("base", "base", None, None, f"{model}/base")
        yield base
        for name, entry in self.sft.items():
            yield make("sft", name, entry, base.id, f"{model}/{name}")
        for name, entry in self.preference.items():
            for parent in _parents(entry) if seed in entry.get("seeds", self.seeds) else []:
                yield make(
                    "preference",
                    name,
                    entry,
                    f"{model}/{parent}/seed-{seed}",
                    f"{model}/{parent}/{name}",
                )


class Lineage(Settings):
    """Keys of a preference entry that no method has: where runs start, and with which seeds."""

    method: str
    parent: str | Names
    seeds: Seeds = [0]  # left out: all of the study


def load_study(name: str) -> Study:
    """Read and validate `notebooks/configs/<name>.yaml`.

    Raises StudyError with file, key and fix.
    """
    name = str(name)  # Snakemake makes a number of `--config study=2024`
    path = find(name)
    content = extends.expand(path, read(path))
    if "name" in content:
        raise StudyError(f"{path}: name: remove it; a study is named by its file")
    try:
        study = Study(name=name, **content)
    except ValidationError as error:
        raise study_error(path, extends.located(path, explain("", content, error))) from None
    mistakes = list(checks.of_study(study))
    for section, entries in (("sft", study.sft), ("preference", study.preference)):
        for entry_name, entry in entries.items():
            mistakes += _mistakes(section, entry_name, entry)
    mistakes = mistakes or list(checks.of_runs(study, study.runs()))
    if mistakes:
        raise study_error(path, extends.located(path, mistakes))
    return study


def _parents(entry: dict) -> list[str]:
    parent = entry["parent"]
    return parent if isinstance(parent, list) else [parent]


def _mistakes(section: str, name: str, entry: dict) -> list[tuple[str, str]]:
    """What is wrong with an entry by itself: (key, mistake and fix)."""
    key = f"{section}.{word(name)}"
    try:
        if section == "preference":
            Lineage(**{k: v for k, v in entry.items() if k in Lineage.model_fields})
        _method_settings(section, entry)
    except ValidationError as error:
        return list(explain(key, entry, error))
    except LookupError as error:
        return [(f"{key}.method", error.args[0])]
    return []


def _method_settings(section: str, entry: dict) -> TrainingSettings:
    """The settings of a run, checked by its method's; LookupError says why there is no method."""
    settings = _settings_class(section, entry.get("method", "sft"))
    return settings(**{k: v for k, v in entry.items() if k not in Lineage.model_fields})


def _settings_class(section: str, method: str) -> type[TrainingSettings]:
    known, file = inputs.methods(), f"vd/methods/{method}.py"
    if method not in known:
        new = isinstance(method, str) and method.isidentifier() and not (paths.ROOT / file).exists()
        raise LookupError(
            f"no method {shown(method)}; write one of {', '.join(known)}"
            + (f", or add {file} with Settings and train" if new else "")
        )
    try:
        module = importlib.import_module(f"vd.methods.{method}")
    except Exception as error:  # somebody's own method
        said = word(" ".join(f"{type(error).__name__}: {error}".split()))
        raise LookupError(f"{file} cannot be imported ({said}); correct it") from None
    if not (isinstance(module.Settings, type) and issubclass(module.Settings, TrainingSettings)):
        bases = "TrainingSettings or PreferenceSettings"
        raise LookupError(f"{file}: Settings must build on {bases}")
    if issubclass(module.Settings, PreferenceSettings) != (section == "preference"):
        others = ", ".join(name for name in known if name != "sft")
        fit = "sft takes sft" if section == "sft" else f"write one of {others}"
        raise LookupError(f"'{method}' is not a method of this section; {fit}")
    if section == "preference" and not hasattr(module, "CURVES"):
        raise LookupError(f"{file} has no CURVES, the metrics that 02_preference draws; add them")
    return module.Settings
