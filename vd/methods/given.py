"""Checkpoints from elsewhere: nothing is trained, and they are traced like those of any other run.

A study names what each step is: a folder, such as one that your own Trainer wrote, or a name of the
hub, with the revision after an @:

    method: given
    checkpoints:
      0: allenai/OLMo-2-0425-1B@stage1-step0-tokens0B
      1000: allenai/OLMo-2-0425-1B@stage1-step1000-tokens3B
      2000: results/mine/checkpoint-2000

A folder holds a whole model with its tokenizer, or an adapter on the study's model. Steps are yours
to name; drift time counts in them.
"""

import shutil
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vd import paths
from vd.models.weights import equal_weights, fetched, weights_digest
from vd.store import fingerprint
from vd.store.cache import MADE
from vd.store.files import write_json
from vd.store.fingerprint import Fingerprint
from vd.store.progress import Timer
from vd.store.provenance import provenance
from vd.study.runs import Run
from vd.study.settings import MethodSettings, ModelSettings

READS = None
MAKES = "policy"
CURVES = ()
Step = Annotated[int, Field(ge=0, lt=2**31)]
# a path or name without @, no blank at either end; then perhaps @ and a revision
Place = Annotated[str, Field(pattern=r"^[^\s@]([^@]*[^\s@])?(@[\w./-]+)?$")]


class Settings(MethodSettings):
    """Keys of a given series."""

    checkpoints: dict[Step, Place] = Field(min_length=1)  # step: folder, or name@revision

    def models(self, model: ModelSettings) -> dict[int, ModelSettings]:
        """The model at each step, in their order; `model` is the study's."""
        found = {}
        for step, place in sorted(self.checkpoints.items()):
            source, _, revision = place.partition("@")
            update = {"source": source, "revision": revision or None}
            found[step] = model.model_copy(update=update)
        return found

    def last(self, model: ModelSettings) -> ModelSettings:
        """The model at the last step, from which runs may go on."""
        return self.models(model)[max(self.checkpoints)]


def train(run: Run) -> list[Path]:
    """Find every checkpoint, and say in its folder where it lies; weights stay where they are.

    The record has the SHA-256 of each checkpoint's weights, and names steps with equal ones.
    """
    timer, weights, commits, about = Timer(), {}, {}, {}
    # all are found before anything is written: one wrong name leaves no half series
    for step, model in run.settings.models(run.model_settings).items():
        there, commit = fetched(model.source, model.revision)
        weights[step], commits[step] = weights_digest(there), commit
        # the commit first: a tag may move, and what is probed must be what was hashed
        said = commit or model.revision
        about[step] = {"kind": "elsewhere", "source": model.source, "revision": said}
    return write_series(run, timer, about, weights, commits)


def write_series(
    run: Run,
    timer: Timer,
    about: dict[int, dict],
    weights: dict[int, str],
    revisions: dict[int, str | None],
) -> list[Path]:
    """Say in the folder of every checkpoint who answers for it (see vd/probing/responders.py), and
    write the run's record; returns the folders.
    """
    folder = paths.checkpoints(run.study, run.id)
    asked = Fingerprint(
        **fingerprint.values(run=run), data={str(step): digest for step, digest in weights.items()}
    )
    # steps that are no longer of the series must go, and replies of what was replaced
    if asked.changes(folder / MADE):
        shutil.rmtree(folder, ignore_errors=True)
    for step, who in about.items():
        write_json(who, paths.checkpoint(run.study, run.id, step) / "responder.json")
    asked.write(folder / MADE)
    content = {
        "run": run.model_dump(),
        "checkpoints": sorted(about),
        "weights": weights,
        "equal_weights": equal_weights(weights),
        "revisions": revisions,
        "wall_seconds": {"train": timer.seconds},
        "tokens_seen": None,  # known to those who trained it
        "details": {},
        **provenance(),
    }
    write_json(content, paths.record(run.study, run.id, "train"))
    return [paths.checkpoint(run.study, run.id, step) for step in sorted(about)]
