"""What the README says about adding a method: one file, one entry in a study, and nothing else."""

import os
import shutil
import subprocess

import pandas as pd
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


def test_a_new_method_is_one_file_and_one_entry(tmp_path):
    """A method that the repository does not know, added to a copy of it, flows through to the figures."""
    copy, results = tmp_path / "repository", tmp_path / "results"
    unwanted = shutil.ignore_patterns(".*", "results", "figures", "tests", "__pycache__")
    shutil.copytree(paths.ROOT, copy, ignore=unwanted)
    (copy / "vd" / "methods" / "ipo.py").write_text(IPO)
    study = yaml.safe_load((copy / "notebooks" / "configs" / "smoke.yaml").read_text())
    entry = {k: v for k, v in study["preference"]["dpo-support"].items() if k != "method"} | {"method": "ipo"}
    study |= {"sft": {"sft-support": study["sft"]["sft-support"]}, "preference": {"mine": entry}}
    study = {k: v for k, v in study.items() if k not in ("ablations", "findings")}
    (copy / "notebooks" / "configs" / "mine.yaml").write_text(yaml.safe_dump(study))
    env = os.environ | {"PYTHONPATH": str(copy), "VD_STUDY": "mine", "VD_RESULTS": str(results)}
    env |= {"VD_FIGURES": str(tmp_path / "figures"), "VD_CONFIGS": "notebooks/configs"}
    figure = tmp_path / "figures" / "mine" / "stances_over_steps.csv"
    command = ["snakemake", "--snakefile", "notebooks/Snakefile", "--cores", "2", "--quiet", "all", "--"]
    done = subprocess.run([*command, os.path.relpath(figure, copy)], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "tiny-llama/sft-support/mine" in set(pd.read_csv(figure)["run"])
    assert len(pd.read_csv(results / "mine" / "tiny-llama/sft-support/mine/seed-0/metrics.csv")) == 4
