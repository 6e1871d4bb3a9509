"""What the README says about adding a method: one file, one entry in a study, and nothing else."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from vd import paths

IPO = '''"""Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17)."""

from vd import data, models
from vd.study import PreferenceSettings

CURVES = ("loss", "rewards/margins")


class Settings(PreferenceSettings):
    """Keys of an IPO run."""

    beta: float = 0.1


def train(run):
    """Optimise the parent SFT checkpoint on preference pairs."""
    from vd.methods import trainer

    return trainer.fit(run, build)


def build(run):
    """TRL's trainer for a run."""
    from trl import DPOConfig, DPOTrainer

    from vd.methods import trainer

    pairs = data.preferences(run.settings, run.seed)
    return DPOTrainer(
        model=models.for_training(run.model_settings, run.settings.lora, trainer.start_of(run), run.seed),
        args=DPOConfig(**trainer.arguments(run, len(pairs)), beta=run.settings.beta, loss_type=["ipo"]),
        train_dataset=pairs,
        processing_class=models.load_tokenizer(run.model_settings),
    )
'''


@pytest.fixture
def add(tmp_path):
    """Adds a method to a copy of the repository and names it in its study `mine`."""
    copy = tmp_path / "repository"
    unwanted = shutil.ignore_patterns(".*", "results", "figures", "tests", "__pycache__")
    shutil.copytree(paths.ROOT, copy, ignore=unwanted)

    def add(name, code):
        (copy / "vd" / "methods" / f"{name}.py").write_text(code)
        study = yaml.safe_load((copy / "notebooks" / "configs" / "smoke.yaml").read_text())
        entry = study["preference"]["dpo-support"] | {"method": name}
        study["sft"].pop("sft-neutral")
        study |= {"preference": {"mine": entry}, "ablations": {}, "findings": {}}
        (copy / "notebooks" / "configs" / "mine.yaml").write_text(yaml.safe_dump(study))
        folders = {f"VD_{place.upper()}": str(tmp_path / place) for place in ("results", "figures")}
        env = {"PYTHONPATH": str(copy), "VD_STUDY": "mine", "VD_CONFIGS": "notebooks/configs"}
        return copy, os.environ | folders | env

    return add


def test_a_new_method_is_one_file_and_one_entry(add, tmp_path):
    """A method that the repository does not know flows through to the figures."""
    copy, env = add("ipo", IPO)
    results = tmp_path / "results"
    figure = tmp_path / "figures" / "mine" / "stances_over_steps.csv"
    command = [
        "snakemake",
        "--snakefile",
        "notebooks/Snakefile",
        "--cores",
        "2",
        "--quiet",
        "all",
        "--",
    ]
    done = subprocess.run(
        [*command, os.path.relpath(figure, copy)], cwd=copy, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "tiny-llama/sft-support/mine" in set(pd.read_csv(figure)["run"])
    assert (
        len(pd.read_csv(results / "mine" / "tiny-llama/sft-support/mine/seed-0/metrics.csv")) == 4
    )


BROKEN = {
    "def train(run:": "vd/methods/mine.py cannot be imported (SyntaxError: ",
    "import nothing_like_it": "vd/methods/mine.py cannot be imported (ModuleNotFoundError: ",
    "class Settings: ...": "vd/methods/mine.py: Settings must build on TrainingSettings or Pref",
    "from vd.study import PreferenceSettings as Settings": "vd/methods/mine.py has no CURVES",
    "CURVES = ()": "no method 'mine'; write one of dpo, ppo, sft, simpo",
}


def test_a_new_method_that_lacks_something_is_said_before_any_work(add):
    """The file has a function `train` and one more line."""
    for line, said in BROKEN.items():
        if line.startswith("import"):
            line += "\nfrom vd.study import TrainingSettings as Settings"
        copy, env = add("mine", f"{line}\n\n\ndef train(run): ...\n")
        command = [sys.executable, "-m", "vd", "mine"]
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert f"mine.yaml: preference.mine.method: {said}" in done.stderr
