"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7):

    L = -E[log sigmoid(beta log pi(y_w|x)/pi_ref(y_w|x) - beta log pi(y_l|x)/pi_ref(y_l|x))]

The reference model pi_ref is the SFT checkpoint that the run starts from. A larger beta keeps the
policy closer to it.
"""

from pathlib import Path

from pydantic import PositiveFloat

from vd.study.runs import Run
from vd.study.settings import PreferenceSettings

READS = "pairs"
MAKES = "policy"
FROZEN = 1  # the reference
CURVES = ("loss", "rewards/margins", "rewards/accuracies")


class BetaSettings(PreferenceSettings):
    """Keys of DPO and of losses that are made of its own."""

    beta: PositiveFloat = 0.1  # the authors' usual value


class Settings(BetaSettings):
    """Keys of a DPO run."""

    # pairs say how likely chosen is preferred (vd/training/soft_labels.py)
    soft_labels: bool = False


def train(run: Run) -> list[Path]:
    """Optimise the parent SFT checkpoint on preference pairs."""
    from vd.training import trainer

    return trainer.fit(run, build)


def build(run: Run):
    """The trainer of a run before its first step."""
    from vd.training import pairs

    return pairs.build(run, pairs.SoftTrainer if run.settings.soft_labels else pairs.PairTrainer)
