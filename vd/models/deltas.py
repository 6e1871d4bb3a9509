"""Checkpoints of whole weights as lossless differences from another one.

Between two checkpoints of a run most bits of a bfloat16 number are equal, so their exclusive or is
mostly zeros, which compress. The first bytes of all numbers stand together, then the second ones.
"""

import json
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

from vd.store.files import replace

FILE = "model.delta"  # beside config.json, in place of the weights
ENDING = "*.safetensors"


def pack(folder: Path, base: Path) -> None:
    """Put the difference of a folder's weights from those of `base` in their place.

    ValueError where the two do not hold the same weights in the same dtypes.
    """
    from safetensors.torch import save_file

    own, theirs = _weights(folder), _weights(base)
    kinds = [{n: (w.shape, w.dtype) for n, w in weights.items()} for weights in (own, theirs)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{folder}: holds other weights than {base}, so it has no difference")
    about = {n: [list(w.shape), str(w.dtype).removeprefix("torch.")] for n, w in own.items()}
    with replace(folder / FILE) as part:
        packed = {name: _squeezed(own[name], theirs[name]) for name in own}
        save_file(packed, part, metadata={"weights": json.dumps(about), "base": base.name})
    # only now: until here the folder was whole
    for file in (*folder.glob(ENDING), *folder.glob(f"{ENDING}.index.json")):
        file.unlink()


@contextmanager
def whole(folder: Path):
    """Yield a folder with the weights of a checkpoint: itself, or one for the length of the block
    where it holds a difference.
    """
    if not (folder / FILE).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=folder) as there:
        restore(folder, Path(there))
        yield Path(there)


def restore(folder: Path, there: Path) -> None:
    """Write the weights that a difference stands for, and their configuration, to a folder."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(folder / FILE, "pt") as file:
        about = json.loads(file.metadata()["weights"])
        theirs = _weights(folder.parent / file.metadata()["base"])
        weights = {}
        for name, (shape, dtype) in about.items():
            kind = getattr(torch, dtype)
            bits = zlib.decompress(file.get_tensor(name).numpy().tobytes())
            if not bits:  # an empty weight, which torch reads from no buffer
                weights[name] = torch.empty(shape, dtype=kind)
                continue
            planes = torch.frombuffer(bytearray(bits), dtype=torch.uint8)
            changed = planes.reshape(kind.itemsize, -1).T.contiguous().flatten()
            weights[name] = (changed ^ _bytes(theirs[name])).view(kind).reshape(shape)
    save_file(weights, there / "model.safetensors", metadata={"format": "pt"})
    for file in folder.glob("*.json"):
        (there / file.name).write_bytes(file.read_bytes())


def _squeezed(own, theirs):
    import torch

    bits = _bytes(own) ^ _bytes(theirs)
    planes = bits.reshape(-1, own.element_size()).T.contiguous()
    return torch.frombuffer(
        bytearray(zlib.compress(planes.numpy().tobytes(), 6)), dtype=torch.uint8
    )


def _bytes(weight):
    import torch

    return weight.contiguous().flatten().view(torch.uint8)


def _weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {n: w for file in sorted(folder.glob(ENDING)) for n, w in load_file(file).items()}
