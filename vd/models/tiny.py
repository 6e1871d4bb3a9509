"""Random models, small enough to test a whole pipeline; their numbers mean nothing."""

from pathlib import Path

from vd import paths
from vd.models import chat
from vd.study.sources import TINY


def make(name: str, folder: Path) -> None:
    """Make a random model of a few thousand weights, and a tokenizer trained on the probes."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

    # by bytes, so that any text can be read
    bpe = ByteLevelBPETokenizer()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    bpe.train(
        str(paths.CORPORA / "probes.jsonl"),
        vocab_size=600,
        special_tokens=special,
        show_progress=False,
    )
    # what transformers takes is inside the wrapper
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = chat.CHATML
    config = AutoConfig.for_model(
        name,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        # else Llama's default, 1, which is <|im_start|> here
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **TINY[name],
    )
    # the same weights on every machine; only they are drawn
    torch.manual_seed(0)
    kind = AutoModel if name == "bert" else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
