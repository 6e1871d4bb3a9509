"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7):

    L = -E[log sigmoid(beta log pi(y_w|x)/pi_ref(y_w|x) - beta log pi(y_l|x)/pi_ref(y_l|x))]

The reference model pi_ref is the SFT checkpoint that the run starts from. A larger beta keeps the policy closer to it.
"""

import copy
from pathlib import Path

from pydantic import PositiveFloat

from vd import data, models
from vd.study import PreferenceSettings, Run


class Settings(PreferenceSettings):
    """Keys of a DPO run."""

    beta: PositiveFloat = 0.1  # the authors' usual value


def train(run: Run) -> list[Path]:
    """Optimise the parent SFT checkpoint on preference pairs."""
    from vd.methods import trainer

    dpo = build(run)
    check_reference(dpo, trainer.start_of(run))
    return trainer.fit(run, dpo)


def build(run: Run):
    """TRL's DPOTrainer for a run, before its first step."""
    from trl import DPOConfig, DPOTrainer

    from vd.methods import trainer

    policy = models.for_training(run.model_settings, run.settings.lora, trainer.start_of(run), run.seed)
    # With adapters TRL copies the start adapter as the frozen reference. Without, it would reload whatever the model's
    # configuration names, which need not be the SFT checkpoint, so a copy is passed.
    reference = None if run.settings.lora else copy.deepcopy(policy)
    return DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(**trainer.arguments(run), beta=run.settings.beta, loss_type=["sigmoid"]),
        train_dataset=data.preferences(run.settings, run.seed),
        processing_class=models.load_tokenizer(run.model_settings),
    )


def check_reference(dpo, start: Path) -> None:
    """Raise RuntimeError unless the trainer's reference has exactly the weights stored in the SFT checkpoint."""
    from safetensors.torch import load_file

    stored = {name: weight for file in start.glob("*.safetensors") for name, weight in load_file(file).items()}
    if dpo.ref_model is None:
        reference = {n.replace(".ref.", "."): w for n, w in dpo.model.named_parameters() if ".ref." in n}
    else:
        reference = {n: w for n, w in dpo.ref_model.named_parameters() if n in stored}
    if not reference or any(not stored[n].to(w.dtype).equal(w.detach().cpu()) for n, w in reference.items()):
        raise RuntimeError(
            f"DPO's reference model is not the SFT checkpoint {start}; TRL's handling of references changed"
        )
