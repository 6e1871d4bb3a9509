"""Scores of the next token, read once for each new token."""

import inspect
from collections.abc import Callable


def next_scores(model, mask) -> Callable:
    """A function from tokens so far (B, T) to the model's scores (B, V), float32, of the next one.

    `mask` (B, T0) is that of the prompts. Only tokens that are new since the last call are read.
    """
    import torch

    state = {"past": None, "read": 0}
    known = inspect.signature(model.forward).parameters

    def scores(input_ids):
        new = input_ids[:, state["read"] :]
        grown = torch.ones_like(input_ids)
        grown[:, : mask.shape[1]] = mask
        # prompts are padded on the left, so a token's position is not its column
        positions = (grown.cumsum(1) - 1).clamp(min=0)[:, state["read"] :]
        # not every architecture takes both
        optional = {"position_ids": positions, "logits_to_keep": 1}
        out = model(
            input_ids=new,
            attention_mask=grown,
            past_key_values=state["past"],
            use_cache=True,
            **{key: value for key, value in optional.items() if key in known},
        )
        state.update(past=out.past_key_values, read=input_ids.shape[1])
        return out.logits[:, -1].float()

    return scores
