"""Sampling replies whose random numbers are keyed by what is asked."""

import hashlib

import numpy as np
import pandas as pd

from vd.finite import finite
from vd.models import chat, loading
from vd.study.settings import Probing

BROKEN = "its training broke: lower its learning_rate, or raise probing.temperature"
COLUMNS = [
    "run",
    "step",
    "prompt_id",
    "topic",
    "sample",
    "prompt",
    "response",
    "n_tokens",
    "finish_reason",
]
OF_REPLY = COLUMNS[2:]


def ask(
    model,
    tokenizer,
    asked: pd.DataFrame,
    probing: Probing,
    seed: int,
    report=None,
    *,
    shift=None,
    purpose: str = "",
) -> pd.DataFrame:
    """Sample `probing.samples` replies to each row (prompt_id, topic, prompt) of `asked` from one
    model; rows that have a `sample` already are asked once, as that sample.

    Returns prompt_id, topic, sample, prompt, response, n_tokens, finish_reason, ordered by prompt
    and sample. `report` is called with the number of replies done so far. `shift` makes, from the
    attention mask of a batch, a logits processor that changes scores before tokens are drawn.
    `purpose` sets a second question to the same row apart in its random numbers.
    """
    rows = asked_for(asked, probing.samples)
    texts = as_read(tokenizer, rows["prompt"])
    rows = rows.assign(text=texts, length=[len(t) for t in texts])
    answered = []
    ordered = rows.sort_values(
        ["length", "prompt_id", "sample"]
    )  # alike lengths together: little padding
    for start in range(0, len(rows), probing.batch_size):
        batch = ordered.iloc[start : start + probing.batch_size]
        replies = _generate(model, tokenizer, batch, probing, seed, shift, purpose)
        answered.append(batch.join(replies))
        if report:
            report(start + len(batch))
    # back in the order of `rows`, however batches were put together
    return pd.concat(answered).sort_index()[OF_REPLY]


def asked_for(asked: pd.DataFrame, samples: int) -> pd.DataFrame:
    """A row per reply: prompt_id, topic, sample, prompt."""
    columns = ["prompt_id", "topic", "sample", "prompt"]
    if "sample" not in asked:
        asked = asked.merge(pd.DataFrame({"sample": range(samples)}), how="cross")
    return asked[columns].reset_index(drop=True)


def as_read(tokenizer, prompts) -> list[str]:
    """Prompts as a model reads them: in the chat template, up to where the reply begins."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in prompts
    ]


def batched(tokenizer, texts: list[str], device) -> dict:
    """Tokens of texts of `as_read`, padded on the left so that all replies begin alike."""
    # the chat template writes the start token itself
    how = {"padding": True, "padding_side": "left", "add_special_tokens": False}
    return tokenizer(texts, **how, return_tensors="pt").to(device)


def uniforms(seed: int, prompt_id: str, sample: int, length: int, purpose: str = "") -> np.ndarray:
    """The random numbers in [0, 1) of one reply, one per token position.

    A Philox stream keyed by its identity.
    """
    # Philox takes a key of 128 bits; hashed, keys that differ in one digit are not alike
    key = hashlib.sha256(f"{seed}/{prompt_id}/{sample}{purpose}".encode()).digest()[:16]
    # drawn in order, so a longer limit leaves earlier tokens as they are
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big"))).random(length)


def _generate(
    model, tokenizer, batch: pd.DataFrame, probing: Probing, seed: int, shift, purpose: str
) -> pd.DataFrame:
    import torch

    inputs = batched(tokenizer, batch["text"].tolist(), model.device)
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    check_room(loading.context(model.config), lengths, batch, probing)
    noise = np.stack(
        [
            uniforms(seed, r.prompt_id, r.sample, probing.max_new_tokens, purpose)
            for r in batch.itertuples()
        ]
    )
    sampler = _sampler(noise, probing.temperature)  # last: it leaves one token per row
    processors = [shift(inputs["attention_mask"]), sampler] if shift else [sampler]
    stops = stops_of(model.generation_config, tokenizer)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=probing.max_new_tokens,
            # the sampler has chosen; a draw of generate's own would depend on the batch
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stops,
            logits_processor=processors,
        )
    tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
    return read(tokenizer, tokens, stops).set_axis(batch.index)


def read(tokenizer, tokens: list[list[int]], stops: list[int]) -> pd.DataFrame:
    """Replies from their tokens, which may go on behind one that ends a reply: response, n_tokens,
    finish_reason.
    """
    rows = []
    for row in tokens:
        n = next((i for i, token in enumerate(row) if token in stops), len(row))
        text, whole = chat.reply_of(tokenizer, row[:n])
        # a reply that never left its thoughts is cut, whatever token it ended with
        rows.append((text, n, "stop" if n < len(row) and whole else "length"))
    return pd.DataFrame(rows, columns=["response", "n_tokens", "finish_reason"])


def check_room(
    limit: int | None, lengths: list[int], batch: pd.DataFrame, probing: Probing
) -> None:
    """Raise ValueError for a prompt (of so many tokens) that leaves no room for a reply in what a
    model reads: beyond it models write noise.
    """
    if limit and max(lengths) + probing.max_new_tokens > limit:
        row = batch.iloc[int(np.argmax(lengths))]
        raise ValueError(
            f"probe {row['prompt_id']}: {max(lengths)} tokens and a reply of "
            f"probing.max_new_tokens {probing.max_new_tokens} exceed the {limit} tokens that the "
            "model reads; shorten the prompt or lower probing.max_new_tokens"
        )


def stops_of(generation_config, tokenizer) -> list[int]:
    """Tokens that end a reply: the template's end of turn, and the tokenizer's and model's."""
    named = generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    return sorted({*tokenizer.stop_ids, *(token for token in named if token is not None)})


def _sampler(noise: np.ndarray, temperature: float):
    """A logits processor that leaves one token per row.

    The inverse cumulative distribution at `noise` (B, T).
    """
    import torch

    # generate calls a processor once per position, for all rows at once
    position = iter(range(noise.shape[1]))

    def choose(input_ids, scores):
        if temperature == 0:
            # of the largest alone: -inf elsewhere is a token that can never be said
            finite(scores.amax(-1), "a score of the next token", BROKEN)
            return scores
        # float64: near 1 a float32 sum does not grow by probabilities below about 3e-8
        cumulative = (scores / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
        finite(cumulative[:, -1], "a probability of the next token", BROKEN)
        # times the whole sum, which rounding leaves beside 1
        drawn = (
            torch.as_tensor(noise[:, next(position)], device=scores.device)[:, None]
            * cumulative[:, -1:]
        )
        # the first token whose sum exceeds the draw, so never one of probability 0
        token = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, token, 0.0)

    return choose
