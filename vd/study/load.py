"""A study is one YAML file, `notebooks/configs/<study>.yaml`; all that later stages do follows from
it.

Its mistakes are reported before any work starts, as a `StudyError` that names file, key and fix:

    vd/study/file.py       how the file is written
    vd/study/extends.py    what it takes over from another study
    vd/study/settings.py   what each key may hold, by its type
    vd/study/methods.py    which methods there are, and their keys
    vd/study/graph.py      from which run each run starts
    vd/study/checks.py     what keys have to do with each other
    vd/study/inputs.py     what has to be there: models, data sets, probes, prompts
"""

from pydantic import Field, ValidationError

from vd import lineages, paths
from vd.study import checks, extends
from vd.study.evaluations import settings_of as settings_of_one
from vd.study.file import StudyError, explain, find, study_error, word
from vd.study.graph import (
    SECTIONS,
    Continued,
    Lineage,
    expand,
    made_by_recipes,
    settings_of,
)
from vd.study.reading import read
from vd.study.runs import Run
from vd.study.settings import (
    Ablation,
    Bootstrap,
    EvaluationSettings,
    JudgeSettings,
    ModelSettings,
    Probing,
    VPrismSettings,
)
from vd.study.types import Seeds, Settings


class Study(Settings):
    """A whole study. `runs()` expands it to every run of every model and seed, parents first."""

    name: str
    seeds: Seeds
    models: dict[str, ModelSettings] = Field(min_length=1)
    sft: dict[str, dict] = Field(min_length=1)
    scorers: dict[str, dict] = {}
    preference: dict[str, dict] = {}
    recipes: dict[str, dict] = {}
    evaluations: dict[str, dict] = {}
    vprism: VPrismSettings = VPrismSettings()
    probing: Probing = Probing()
    judge: JudgeSettings = JudgeSettings()
    bootstrap: Bootstrap = Bootstrap()
    ablations: dict[str, Ablation] = {}
    findings: dict[str, dict] = {}  # roles of each paper, see vd/study/roles.py

    def runs(self) -> dict[str, Run]:
        """All runs by id, every parent and scorer before the runs that need it."""
        return expand(self)

    def policies(self) -> dict[str, Run]:
        """The runs that are probed and judged, by id."""
        return {run_id: run for run_id, run in self.runs().items() if run.makes == "policy"}

    def evaluation_settings(self, run: Run | None = None) -> dict[str, EvaluationSettings]:
        """The settings of each evaluation, or of each that a run is asked for, by name."""
        found = {name: settings_of_one(name, own) for name, own in self.evaluations.items()}
        if run is None:
            return found
        return {n: own for n, own in found.items() if own.runs is None or run.lineage in own.runs}

    def evaluated(self) -> dict[str, Run]:
        """The runs that some evaluation is asked for, by id."""
        return {i: run for i, run in self.policies().items() if self.evaluation_settings(run)}

    def trained_before(self, run: Run) -> list[str]:
        """Ids of the runs that have to be trained before this one: its parent, unless that is the
        base model, and its scorer.
        """
        base = lineages.run_id(run.model, lineages.BASE, run.seed)
        return [other for other in (run.parent, run.scorer) if other not in (None, base)]

    @property
    def asks_vprism(self) -> bool:
        """Whether the probes are the V-PRISM that the study builds itself."""
        return paths.data_file(self.probing.probes) == paths.vprism(self.name)

    def run(self, run_id: str) -> Run:
        """The run with this id."""
        runs = self.runs()
        if run_id not in runs:
            raise StudyError(
                f"{paths.config(self.name)}: no run '{run_id}'; its runs are {', '.join(runs)}"
            )
        return runs[run_id]


def load_study(name: str) -> Study:
    """Read and validate `notebooks/configs/<name>.yaml`.

    Raises StudyError with file, key and fix.
    """
    name = str(name)  # Snakemake makes a number of `--config study=2024`
    path = find(name)
    content = extends.expand(path, read(path))
    # before validation, to which `name` would be a second value of the same argument
    if "name" in content:
        raise StudyError(f"{path}: name: remove it; a study is named by its file")
    try:
        study = Study(name=name, **content)
    except ValidationError as error:
        raise study_error(path, extends.located(path, explain("", content, error))) from None
    mistakes = list(checks.of_study(study))
    for section in SECTIONS:
        for entry_name, entry in getattr(study, section).items():
            mistakes += _mistakes(study, section, entry_name, entry)
    # Runs can be made only of entries that are right by themselves.
    mistakes = mistakes or list(checks.of_runs(study, study.runs()))
    if mistakes:
        raise study_error(path, extends.located(path, mistakes))
    return study


def _mistakes(study: Study, section: str, name: str, entry: dict) -> list[tuple[str, str]]:
    """What is wrong with an entry by itself: (key, mistake and fix)."""
    key = f"{section}.{word(name)}"
    form = Continued if section == "preference" else Lineage
    try:
        # Two sets of keys in one entry: those of every run, and those of its method.
        form(**{k: v for k, v in entry.items() if k in Lineage.model_fields})
        settings_of(section, entry, made_by_recipes(study))
    except ValidationError as error:
        return list(explain(key, entry, error))
    except LookupError as error:
        return [(f"{key}.method", error.args[0])]
    return []
