"""Prompts and replies as tokens in padded batches, for evaluations that score given replies."""

from collections.abc import Iterator

import pandas as pd

Tokens = tuple[list[int], list[int]]  # of a prompt, and of the reply to it


def encoded(tokenizer, rows: pd.DataFrame, max_length: int) -> list[Tokens]:
    """Tokens of prompts and replies as in training; rows without room for a reply are left out."""
    from vd.training.trainer import encode

    found = []
    for row in rows.to_dict("records"):
        prompt = [*(row.get("history") or []), {"role": "user", "content": row["prompt"]}]
        told = [{"role": "assistant", "content": row["completion"]}]
        before, reply = encode(tokenizer, prompt, told)
        if len(before) < max_length:
            found.append((before, reply[: max_length - len(before)]))
    return found


def batches(responder, texts: list[Tokens], batch_size: int) -> Iterator[tuple]:
    """Batches on the responder's device: ids (B, T), there (B, T), scored (B, T - 1).

    `there` is 0 for padding; `scored` is true where the token after a position is one of the reply.
    """
    import torch

    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        longest = max(len(before) + len(reply) for before, reply in batch)
        # padded on the right: tokens of a causal model neither see it nor change their position
        ids = torch.full((len(batch), longest), responder.tokenizer.pad_token_id)
        there, scored = torch.zeros_like(ids), torch.zeros(ids.shape, dtype=torch.bool)
        for i, (before, reply) in enumerate(batch):
            end = len(before) + len(reply)
            ids[i, :end] = torch.tensor([*before, *reply])
            there[i, :end] = 1
            scored[i, len(before) : end] = True
        device = responder.model.device
        yield ids.to(device), there.to(device), scored[:, 1:].to(device)
