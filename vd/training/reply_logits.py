"""Logits at replies alone: losses on pairs read them nowhere else.

A model's vocabulary is far wider than its layers: logits at prompts are much of a step's time and
most of its memory.
"""

import contextlib

import torch


def positions(*replies: torch.Tensor) -> int:
    """How many positions at the end of a batch its replies need, from masks (N, T) of their tokens,
    which are padded on the right to one length: from the first of them on, and the one before,
    which predicts it.
    """
    longest = max(mask.shape[1] for mask in replies)
    return longest - min(int(mask.any(0).nonzero()[0]) for mask in replies) + 1


def supported(model) -> bool:
    """Whether a model can leave logits out; a model class of somebody's own may not."""
    return model._supports_logits_to_keep()


@contextlib.contextmanager
def only(models: list[torch.nn.Module], whole: dict[str, torch.Tensor], kept: int):
    """Within it, models read the batch `whole`, whatever part of it they are given, and return
    logits (N, kept, V) of its end. Embeddings are given whole, in place of tokens.
    """

    def widened(module, args, given):
        read = {
            n: w for n, w in whole.items() if not (n == "input_ids" and "inputs_embeds" in given)
        }
        return (), given | read | {"logits_to_keep": kept}

    hooks = [model.register_forward_pre_hook(widened, with_kwargs=True) for model in models]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
