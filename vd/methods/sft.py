"""Supervised fine-tuning: cross-entropy on the reply, L = -E[log pi(y | x)].

The prompt's tokens carry no loss.
"""

from pathlib import Path

from vd.data import sets
from vd.models import loading
from vd.study.runs import Run
from vd.study.settings import TrainingSettings

READS = "texts"
MAKES = "policy"
CURVES = ("loss",)


class Settings(TrainingSettings):
    """Keys of an SFT run; there are none of its own."""


def train(run: Run) -> list[Path]:
    """Fine-tune the base model, or the parent's last checkpoint, on prompt-completion data."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run: Run):
    """TRL's SFTTrainer for a run, before its first step."""
    from trl import SFTConfig, SFTTrainer

    from vd.training import trainer

    examples = sets.sft(run.settings, run.seed)
    arguments = trainer.arguments(run, len(examples)) | {"max_length": run.settings.max_length}
    return SFTTrainer(
        model=loading.for_training(
            run.model_settings, run.settings.lora, trainer.start_of(run), run.seed
        ),
        args=SFTConfig(**arguments, completion_only_loss=True, packing=False),
        train_dataset=examples,
        processing_class=loading.load_tokenizer(run.model_settings),
    )
