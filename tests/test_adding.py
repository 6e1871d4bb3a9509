"""What vd/README.md says about adding something: one file, one entry in a study, nothing else."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from test_workflow import unwanted

from vd import paths
from vd.study.methods import methods

METHOD = '''"""Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036)."""

from vd.data import sets
from vd.models import loading
from vd.study.settings import PreferenceSettings

READS = "pairs"
MAKES = "policy"
CURVES = ("loss", "rewards/margins")


class Settings(PreferenceSettings):
    """Keys of an IPO run."""

    beta: float = 0.1


def train(run):
    """Optimise the parent checkpoint on preference pairs."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run):
    """TRL's trainer for a run."""
    from trl import DPOConfig, DPOTrainer

    from vd.training import trainer

    s, pairs = run.settings, sets.preferences(run.settings, run.seed)
    start = trainer.start_of(run)
    arguments = trainer.arguments(run, len(pairs))
    return DPOTrainer(
        model=loading.for_training(run.model_settings, s.lora, start, run.seed),
        args=DPOConfig(**arguments, beta=s.beta, loss_type=["ipo"]),
        train_dataset=pairs,
        processing_class=loading.load_tokenizer(run.model_settings),
    )
'''
RECIPE = '''"""Pairs of one reply, opened with Yes or with No."""

from vd.study.settings import RecipeSettings

KIND = "pairs"
COLUMNS = ["id", "topic", "prompt", "chosen", "rejected"]


class Settings(RecipeSettings):
    """Keys of this recipe."""

    prompts: str = "value_gap"


def make(making):
    """One row per prompt."""
    prompts = making.prompts(making.settings.prompts)
    replies = making.ask(prompts.rename(columns={"id": "prompt_id"})[["prompt_id", "prompt"]])
    said = replies["response"].reset_index(drop=True)
    table = prompts.reset_index(drop=True).assign(chosen="Yes. " + said, rejected="No. " + said)
    return table.assign(answered=True, dropped="")
'''
EVALUATION = '''"""How often replies ask back."""

import pandas as pd

from vd.study.settings import EvaluationSettings


class Settings(EvaluationSettings):
    """There are no keys of its own."""


def evaluate(responder, replies, settings, study, run):
    """The share of replies that hold a question mark."""
    share = replies["response"].str.contains("?", regex=False).mean()
    row = {"metric": "asks back", "value": share, "lo": share, "hi": share, "n": len(replies)}
    return pd.DataFrame([row])
'''
PAPER = '''"""A paper that claims one thing."""

from vd.findings.finding import Finding
from vd.study.roles import role
from vd.study.types import Settings

TITLE = "A paper"


class Roles(Settings):
    """Who plays which part."""

    any_run: str | None = role("run")


FINDINGS = [
    Finding(
        "it_moves",
        "Training moves something",
        ("any_run",),
        lambda e: [e.test("drift above 0", e.size("any_run", "support"))],
        "it does",
    )
]
'''
FILES = {
    "methods/ipo.py": METHOD,
    "recipes/kinds/yes_no.py": RECIPE,
    "evaluations/metrics/questions.py": EVALUATION,
    "findings/papers/a_paper.py": PAPER,
}


@pytest.fixture
def add(tmp_path):
    """Adds files to a copy of the repository, and a study; returns it and its environment."""
    copy = tmp_path / "repository"
    shutil.copytree(paths.ROOT, copy, ignore=unwanted)

    def add(files, change):
        for name, code in files.items():
            assert not (copy / "vd" / name).exists()
            (copy / "vd" / name).write_text(code)
        study = yaml.safe_load((copy / "notebooks" / "configs" / "smoke.yaml").read_text())
        empty = ("scorers", "recipes", "evaluations", "ablations", "findings")
        study |= {name: {} for name in empty}
        study["sft"] = {"sft-support": study["sft"]["sft-support"]}
        entry = study["preference"]["dpo-support"]
        study["preference"] = {"mine": entry}
        change(study, entry)
        (copy / "notebooks" / "configs" / "mine.yaml").write_text(yaml.safe_dump(study))
        folders = {f"VD_{place.upper()}": str(tmp_path / place) for place in ("results", "figures")}
        env = {"PYTHONPATH": str(copy), "VD_STUDY": "mine", "VD_CONFIGS": "notebooks/configs"}
        return copy, os.environ | folders | env

    return add


def test_a_method_a_recipe_an_evaluation_and_a_paper_are_one_file_each(add, tmp_path):
    """What the repository does not know flows through to tables and figures."""

    def change(study, entry):
        entry |= {"method": "ipo", "data": "pairs", "examples": 8}
        recipe = {"recipe": "yes_no", "writer": "sft-support", "size": 8, "judge": False}
        study["recipes"] = {"pairs": recipe}
        study["evaluations"] = {"questions": {}}
        study["findings"] = {"a-paper": {"any_run": "sft-support/mine"}}

    copy, env = add(FILES, change)
    results, figures = tmp_path / "results" / "mine", tmp_path / "figures" / "mine"
    wanted = [
        figures / "stances_over_steps.csv",
        figures / "evaluations.csv",
        results / "evaluations.csv",
        figures / "findings.csv",
        results / "findings.json",
    ]
    command = ["snakemake", "--snakefile", "notebooks/Snakefile", "--cores", "2", "--quiet", "all"]
    command += ["--", *(os.path.relpath(file, copy) for file in wanted)]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    run = "tiny-llama/sft-support/mine"
    assert run in set(pd.read_csv(figures / "stances_over_steps.csv")["run"])
    assert len(pd.read_csv(results / run / "seed-0" / "metrics.csv")) == 4
    lines = (results / "recipes" / "pairs" / "data.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 8 and all(row["chosen"].startswith("Yes. ") for row in rows)
    for table in (results / "evaluations.csv", figures / "evaluations.csv"):
        assert "asks back" in set(pd.read_csv(table)["metric"])
    assert "it_moves" in set(pd.read_csv(figures / "findings.csv")["finding"])
    assert [
        row["finding"] for row in json.loads((results / "findings.json").read_text())["findings"]
    ]


READS = 'READS = "pairs"\nMAKES = "policy"'
PAIRS = "from vd.study.settings import PreferenceSettings as Settings"
BROKEN = {
    "def train(run:": "vd/methods/mine.py cannot be imported (SyntaxError: ",
    f"{READS}\n{PAIRS}\nimport nothing_like_it": (
        "vd/methods/mine.py cannot be imported (ModuleNotFoundError: "
    ),
    f"{READS}\nclass Settings: ...": "vd/methods/mine.py: Settings must build on MethodSettings",
    f"{READS}\n{PAIRS}": "vd/methods/mine.py has no CURVES",
    f'READS = "books"\nMAKES = "policy"\n{PAIRS}': (
        "vd/methods/mine.py: READS is 'books'; write one of texts, pairs, steps, prompts, None"
    ),
    "CURVES = ()": f"no method 'mine'; write one of {', '.join(methods())}",
}


@pytest.mark.parametrize("lines", BROKEN)
def test_a_new_method_that_lacks_something_is_said_before_any_work(add, lines):
    """The file has a function `train` and these lines."""
    code = f"{lines}\n\n\ndef train(run): ...\n"
    copy, env = add({"methods/mine.py": code}, lambda _, entry: entry.update(method="mine"))
    command = [sys.executable, "-m", "vd", "mine"]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert f"mine.yaml: preference.mine.method: {BROKEN[lines]}" in done.stderr
