"""Capability, by lm-evaluation-harness (Gao et al., github.com/EleutherAI/lm-evaluation-harness).

What a model can do beside what it values: an alignment tax shows as a fall from the first to the
last checkpoint. The paper's checks are tasks of the harness, which come from the hub:

    evaluations:
      lm_eval: {tasks: [mmlu, hellaswag, gpqa_diamond_zeroshot, piqa]}

Without a network there is a task of ours, `everyday`: 48 choices between something that works and
something that does not (vd/evaluations/tasks). The harness is an option: pip install -e
".[capability]" -c environment.lock. Metrics are called `task measure`, groups such as mmlu stand
beside their parts; intervals are value -+ 1.96 standard errors as the harness gives them, and `n`
counts the questions.
"""

import math

import pandas as pd
from pydantic import Field

from vd import paths
from vd.evaluations.intervals import MEASURED
from vd.study.settings import EvaluationSettings
from vd.study.types import Count, Names

OURS = paths.ROOT / "vd" / "evaluations" / "tasks"


class Settings(EvaluationSettings):
    """Keys of the capability checks."""

    tasks: Names = Field(["everyday"], min_length=1)  # of the harness, or everyday
    shots: int | None = Field(None, ge=0)  # examples before a question; None takes the task's own
    limit: Count | None = None  # questions of a task, at most
    batch_size: Count = 8
    chat: bool = False  # whether questions are put in the chat template


def evaluate(responder, replies, settings: Settings, study, run) -> pd.DataFrame:
    """Each task's measures at one checkpoint: metric, value, lo, hi, n."""
    if not responder.has_likelihood:
        rows = [{"metric": task, "n": 0} for task in settings.tasks]
        return pd.DataFrame(rows, columns=MEASURED)
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        fix = 'pip install -e ".[capability]" -c environment.lock'
        raise ValueError(f"evaluations.lm_eval: {error}; {fix}") from None
    known = TaskManager()
    if unknown := set(settings.tasks) - {"everyday", *known.all_tasks}:
        fix = "write tasks that `lm_eval ls tasks` lists"
        raise ValueError(f"evaluations.lm_eval.tasks: {sorted(unknown)} are not known; {fix}")
    model = HFLM(
        pretrained=responder.model, tokenizer=responder.tokenizer, batch_size=settings.batch_size
    )
    found = simple_evaluate(
        model=model,
        tasks=[_everyday() if task == "everyday" else task for task in settings.tasks],
        task_manager=known,
        num_fewshot=settings.shots,
        limit=settings.limit,
        apply_chat_template=settings.chat,
        log_samples=False,
        random_seed=study.bootstrap.seed,
    )
    counts = {task: both["effective"] for task, both in found["n-samples"].items()}
    rows = []
    for task, measures in (found["results"] | found.get("groups", {})).items():
        for name, value in measures.items():
            measure, _, rule = name.partition(",")
            if not rule or measure.endswith("_stderr"):
                continue
            error = measures.get(f"{measure}_stderr,{rule}")
            half = 1.96 * error if isinstance(error, float) else math.nan
            ends = {"lo": value - half, "hi": value + half, "n": counts.get(task, 0)}
            rows.append({"metric": f"{task} {measure}", "value": value} | ends)
    return pd.DataFrame(rows, columns=MEASURED)


def _everyday() -> dict:
    """Our task, as the harness takes one: the likelier of two ends of a sentence is chosen."""
    mean = {"aggregation": "mean", "higher_is_better": True}
    return {
        "task": "everyday",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(OURS / "everyday.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{goal}},",
        "doc_to_choice": "{{[right, wrong]}}",
        "doc_to_target": 0,
        "target_delimiter": " ",
        "metric_list": [{"metric": name, **mean} for name in ("acc", "acc_norm")],
        "metadata": {"version": 1.0},
    }
