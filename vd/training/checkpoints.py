"""Files of checkpoints: which ones a run needs to go on, and which the rest of the study does."""

import shutil
import zipfile
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from vd.models import deltas
from vd.models.rounding import rounded
from vd.models.weights import DROPPED
from vd.store.files import replace
from vd.training.retention import PUSHED

# what a checkpoint is to the rest of the study, and the replies that it has given
KEEP = ("*.safetensors", "*.safetensors.index.json")
KEEP += (
    "responses.parquet",
    "responses.made",
    "scorer.json",
    "responder.json",
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    DROPPED,
    PUSHED,
    deltas.FILE,
)
# without these a run would not go on alike; with FSDP the first is .bin, and each process has the
# last one
STATE = ("optimizer.*", "scheduler.pt", "rng_state*.pth")


def last_whole(folder: Path) -> Path | None:
    """The last checkpoint that an interrupted run can go on from.

    Later, half-written ones are removed.
    """
    # by number: as a name checkpoint-10 comes before checkpoint-2
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    whole = [path for path in found if _is_whole(path)]
    # paths.steps goes by names alone, so a broken folder would count as a checkpoint
    for path in found[found.index(whole[-1]) + 1 :] if whole else []:
        shutil.rmtree(path)
    return whole[-1] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether all that a run needs to go on from a checkpoint can be read.

    A kill or a full disk may leave any file of it empty or cut.
    """
    try:
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        # what trainer._train reads of it
        state.log_history[-1]["num_tokens"]
        weights = list(checkpoint.glob("*.safetensors"))
        for file in weights:
            safetensors.safe_open(file, "pt")  # compares its length with what its header promises
        # torch.save writes zip archives, whose directory stands at the end: a cut file is none
        state = [list(checkpoint.glob(pattern)) for pattern in STATE]
        return bool(weights) and all(
            files and all(map(zipfile.is_zipfile, files)) for files in state
        )
    except (OSError, ValueError, TypeError, LookupError, safetensors.SafetensorError):
        return False


def lighten(checkpoint: Path, dtype: torch.dtype) -> None:
    """Keep whole weights in the dtype in which they are probed: half of the disk, and the same
    replies (vd/models/rounding.py). Adapters stay in float32.
    """
    for file in checkpoint.glob("model*.safetensors"):
        weights = load_file(file)
        if any(weight.dtype != dtype for weight in weights.values()):
            light = {name: rounded(weight, dtype, name) for name, weight in weights.items()}
            with replace(file) as part:
                save_file(light, part, metadata={"format": "pt"})


def slim(checkpoint: Path) -> None:
    """Leave weights and their configuration.

    Optimiser state and the frozen reference adapter are not needed again; what a responder is made
    of, in folders of its own, is.
    """
    # A checkpoint that says itself what it is made of is nobody else's to thin out.
    whole = (checkpoint / "responder.json").exists()
    kept = {file for pattern in KEEP for file in checkpoint.glob(pattern)}
    for entry in checkpoint.iterdir():
        if entry.is_dir() and not whole:
            shutil.rmtree(entry)
        elif entry.is_file() and entry not in kept:
            entry.unlink()
