"""Where everything of a study lies, as pure functions of (study name, run id).

A run id is the run's lineage: `model/base/seed-S`, `model/SFT run/seed-S` or `model/SFT
run/preference run/seed-S`; it is also the run's folder under `results/<study>/` and the value of
the column `run` in every table. The environment variables VD_CONFIGS, VD_RESULTS, VD_FIGURES and
VD_CACHE move the folders of studies, results, figures and of what is kept for all studies; relative
ones are meant from the repository's root, and `~` is the home folder.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
CORPORA = ROOT / "vd" / "corpora"
PROMPTS = ROOT / "vd" / "prompts"
RECIPE_DATA = "data.jsonl"  # what a recipe makes, in its folder
TRIED = "tried.parquet"  # and everything that it tried, kept or not


def place(variable: str, default: str = "") -> Path:
    """The folder that an environment variable names; not set, or empty, it means the default."""
    return _from_root(os.environ.get(variable) or default)


def cache() -> Path:
    """Folder of models, trained judges and paid judgements, of all studies (VD_CACHE or
    ~/.cache/value-drifts).
    """
    return place("VD_CACHE", "~/.cache/value-drifts")


def results(study: str) -> Path:
    """Folder of a study's tables and runs."""
    return place("VD_RESULTS", "results") / study


def figures(study: str) -> Path:
    """Folder of a study's figures, each with its data beside it."""
    return place("VD_FIGURES", "figures") / study


def data_file(name: str) -> Path:
    """A file that a study names, from the repository's root.

    One in results/ is meant to follow VD_RESULTS.
    """
    head, _, rest = name.partition("/")
    return results(rest) if head == "results" else _from_root(name)


def run(study: str, run_id: str, *below: str) -> Path:
    """Folder of one run, or of one recipe (recipes/<name>), or what is below it."""
    return (results(study) / run_id).joinpath(*below)


def asked(study: str, run_id: str, evaluation: str, step: int) -> Path:
    """What a checkpoint replied to an evaluation's own prompts."""
    return run(study, run_id, "asked", f"{evaluation}-{step}.parquet")


def checkpoints(study: str, run_id: str) -> Path:
    """Folder that a training method fills with `checkpoint-<step>` folders."""
    return run(study, run_id) / "checkpoints"


def checkpoint(study: str, run_id: str, step: int) -> Path:
    """Folder of one checkpoint: an adapter, or a whole model after full fine-tuning."""
    return checkpoints(study, run_id) / f"checkpoint-{step}"


def steps(study: str, run_id: str) -> list[int]:
    """Steps of the checkpoints that lie on disk, ascending; the base model has none."""
    # as numbers: as texts, checkpoint-10 would come before checkpoint-2
    return sorted(
        int(p.name.partition("-")[2]) for p in checkpoints(study, run_id).glob("checkpoint-*")
    )


def last_checkpoint(study: str, run_id: str) -> Path | None:
    """Folder of a run's last checkpoint; None for the base model."""
    found = steps(study, run_id)
    return checkpoint(study, run_id, found[-1]) if found else None


def metrics(study: str, run_id: str) -> Path:
    """Training metrics of a run, one row per logged step."""
    return run(study, run_id) / "metrics.csv"


def record(study: str, run_id: str, stage: str) -> Path:
    """Provenance of one stage (train, probe) of a run, or of the whole run (run)."""
    return run(study, run_id) / f"{stage}.json"


def logits(study: str, run_id: str) -> Path:
    """Yes against No at a run's checkpoints, by probe."""
    return run(study, run_id) / "logits.parquet"


def responses(study: str, run_id: str) -> Path:
    """Replies of a run's checkpoints to the probes."""
    return run(study, run_id) / "responses.parquet"


def stances(study: str, run_id: str) -> Path:
    """Judged stances of a run's replies."""
    return run(study, run_id) / "stances.parquet"


def evaluations(study: str, run_id: str) -> Path:
    """What else was measured of a run's checkpoints."""
    return run(study, run_id) / "evaluations.csv"


def judgements(study: str, run_id: str) -> Path:
    """What the API judge said of a run's replies, one row per reply that it was asked about."""
    return run(study, run_id) / "judgements.parquet"


def judges(study: str, run_id: str) -> Path:
    """What each of several offline judges said of a run's replies."""
    return run(study, run_id) / "judges.parquet"


def recorded(study: str) -> Path:
    """What a study's runs left, without weights, as one file in git."""
    return results(study) / "recorded.zip"


def label_sheet(study: str) -> Path:
    """Replies of a study for people to label."""
    return results(study) / "label_sheet.csv"


def vprism(study: str) -> Path:
    """The probes that a study builds from opening prompts.

    Like all texts of others, they stay out of git.
    """
    return results(study) / "vprism.jsonl"


def recipe(study: str, name: str) -> Path:
    """Folder of a data set that a study makes: data.jsonl, its card, its yield, what was tried."""
    return results(study) / "recipes" / name


def table(study: str, name: str) -> Path:
    """A table of the whole study, such as `drift.csv`."""
    return results(study) / name


def figure(study: str, name: str) -> Path:
    """A figure without its ending; `.png`, `.pdf` and `.csv` are written beside each other."""
    return figures(study) / name


def configs() -> Path:
    """Folder of the studies."""
    return place("VD_CONFIGS", "notebooks/configs")


def prompt(name: str) -> Path:
    """The YAML file of what an API judge is asked."""
    return PROMPTS / f"{name}.yaml"


def config(study: str) -> Path:
    """The YAML file that defines a study."""
    return configs() / f"{study}.yaml"


def notebook(name: str) -> Path:
    """A numbered notebook by its name without ending."""
    return NOTEBOOKS / f"{name}.ipynb"


def executed(study: str, notebook: str, run_id: str | None = None) -> Path:
    """Where a notebook executed for a run, or for the whole study, is kept."""
    return (run(study, run_id) if run_id else results(study)) / "notebooks" / f"{notebook}.ipynb"


def made(study: str, notebook: str, run_id: str | None = None) -> Path:
    """The record, beside an executed notebook, of what it was made from; written last of all."""
    return executed(study, notebook, run_id).with_suffix(".made")


def _from_root(name: str) -> Path:
    # an absolute path replaces ROOT, so only relative ones are meant from there
    return ROOT / Path(name).expanduser()


def anywhere(name: str) -> str:
    """A file's name that holds in every checkout, from the root, if it lies below it; other names
    as they are.
    """
    own = os.path.isabs(name) and Path(name).is_relative_to(ROOT)
    return Path(name).relative_to(ROOT).as_posix() if own else name
