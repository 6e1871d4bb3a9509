"""Whether a reference model is the checkpoint that a run starts from."""

from pathlib import Path

from safetensors.torch import load_file


def check_reference(model, start: Path, adapter: str = "ref") -> None:
    """Raise RuntimeError unless a reference model, or this adapter of a model, holds the SFT
    checkpoint's weights.
    """
    stored = {
        name: weight
        for file in start.glob("*.safetensors")
        for name, weight in load_file(file).items()
    }
    # parameters hold the adapter's name, files do not
    named = dict(model.named_parameters())
    adapters = {n.replace(f".{adapter}.", "."): w for n, w in named.items() if f".{adapter}." in n}
    reference = adapters or {n: w for n, w in named.items() if n in stored}
    # all of a weight that is sharded over processes
    whole = {n: w.full_tensor() if hasattr(w, "full_tensor") else w for n, w in reference.items()}
    if not whole or any(
        not stored[n].to(w.dtype).equal(w.detach().cpu()) for n, w in whole.items()
    ):
        raise RuntimeError(
            f"the reference model is not the SFT checkpoint {start}; TRL's handling of it changed"
        )
