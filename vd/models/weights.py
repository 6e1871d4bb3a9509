"""What weights a checkpoint has, by their SHA-256, wherever it lies.

Public series have served the same weights under many step names; a trajectory through them would
show a standstill that never was.
"""

from pathlib import Path

from vd.models.locate import loading, locate
from vd.store.fingerprint import digest, file_digest

DROPPED = "dropped.json"  # in place of weights that went once they were asked
# the second for models of old; a Trainer writes training_args.bin beside them, which is no weights
WEIGHTS = ("*.safetensors", "*_model*.bin")


def weights_digest(folder: Path) -> str:
    """A hash of all weight files of a folder, by name; ValueError if it has none."""
    files = sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))
    if not files:
        fix = "name a folder or hub model whose weights are saved as .safetensors"
        raise ValueError(f"{folder}: no weights ({', '.join(WEIGHTS)}); {fix}")
    if len(files) == 1:
        return file_digest(files[0])
    return digest(*(f"{file.name} {file_digest(file)}" for file in files))


def equal_weights(digests: dict[int, str]) -> list[list[int]]:
    """Steps that have the same weights, each group in ascending order; none if all differ."""
    groups = {}
    for step, weights in sorted(digests.items()):
        groups.setdefault(weights, []).append(step)
    return [steps for steps in groups.values() if len(steps) > 1]


def fetched(source: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of a model, from the hub where it is no folder here, and its commit there."""
    place = Path(locate(source))
    if place.is_dir():
        return place, None
    from huggingface_hub import snapshot_download

    with loading(source, f"revision {revision or 'main'}"):
        folder = Path(snapshot_download(source, revision=revision))
    return folder, folder.name
