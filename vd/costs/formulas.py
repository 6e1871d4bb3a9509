"""Operations, bytes and seconds of training and of writing replies, with their sources.

FLOPs     A matrix product of n weights costs 2 n per token forwards and 4 n backwards (Kaplan et
          al. 2020, arXiv 2001.08361, section 2.1); frozen weights, whose own gradient nobody needs,
          2 n backwards. Attention adds 2 T d per token, layer and direction of the product of a
          triangle, forwards, with d all heads' width. Activations that are computed again cost a
          forward pass.
memory    Trained weights take 16 bytes: value, gradient and Adam's two moments in float32
          (Rajbhandari et al. 2020, arXiv 1910.02054, section 3), divided among the processes that
          shard them; those of a layer and its neighbour are gathered in 2 bytes. Frozen ones take
          2. A layer keeps 34 bytes per token and hidden unit for its backward pass (Korthikanti et
          al. 2022, arXiv 2205.05198, equation 1, with fused attention), or 2 where it is computed
          again. In float32 it is twice as much, and attention that is not fused adds 10 bytes per
          token, head and token of the text (the same equation). Logits are held in float32 as
          scores, as probabilities and as their gradient.
writing   A token of a batch reads all weights once and each row's keys and values (Pope et al.
          2022, arXiv 2211.05102, section 2), unless its operations take longer.
"""

from dataclasses import dataclass

from vd.costs.shapes import Shape

LOGIT_BYTES = 12  # of a score, its probability and its gradient, in float32
KEPT, AGAIN = 34, 2  # bytes per token, layer and hidden unit
TRAINED, FROZEN = 16, 2  # bytes of a weight


@dataclass(frozen=True)
class Texts:
    """What a step of training reads."""

    tokens: float  # all of a step's texts together
    longest: float  # of one text, in tokens
    scored: float  # tokens at which logits are computed, all together


def forward(shape: Shape, tokens: float, longest: float, scored: float) -> float:
    """FLOPs of a forward pass over texts of up to `longest` tokens."""
    attention = 2 * longest * shape.layers * shape.heads * shape.head_size
    return tokens * (2 * shape.in_layers + attention) + scored * 2 * shape.output


def step(shape: Shape, texts: Texts, *, adapters: bool, again: bool) -> float:
    """FLOPs of a pass forwards and backwards of one model that is trained on texts."""
    once = forward(shape, texts.tokens, texts.longest, texts.scored)
    return once * (1 + (1 if adapters else 2) + again)


def training_bytes(
    shape: Shape,
    texts: Texts,
    *,
    r: int | None,
    again: bool,
    processes: int = 1,
    frozen: int = 0,
    trained: int = 1,
    whole: int = 0,
    wide: bool = False,
    held: float = 1.0,
) -> float:
    """Bytes on one device; `texts` are those of one forward pass of one process.

    `r` is the rank of adapters, None for whole weights; `frozen` models are read beside `trained`
    ones, `whole` of them on a base of their own; `wide` is float32 without fused attention, `held`
    what is held for a byte in use.
    """
    n = shape.parameters
    if r is None:
        # a frozen one is a copy in float32, sharded alike
        weights = n * (TRAINED * trained + 4 * frozen) / processes
        weights += 2 * 2 * shape.in_layers / shape.layers * (processes > 1)
    else:
        # adapters on one base; a frozen policy is the base with its start's adapters
        own = shape.adapters(r)
        weights = FROZEN * (2 if wide else 1) * n * (trained + whole)
        weights += own * (TRAINED * trained + 4 * frozen)
    layer = shape.hidden * KEPT
    if wide:
        layer = 2 * layer + 10 * shape.heads * texts.longest
    kept = shape.hidden * AGAIN * (2 if wide else 1) if again else layer
    # what is trained together goes backwards together
    activations = trained * texts.tokens * (kept * shape.layers + (layer if again else 0))
    return weights + held * (activations + texts.scored * shape.vocabulary * LOGIT_BYTES)


def writing(
    shape: Shape, batch: int, prompt: float, reply: float, peak: float, bandwidth: float
) -> float:
    """Seconds that a batch of replies of `reply` tokens takes on a device, at its limits."""
    read = 2 * shape.parameters + batch * shape.cache * (prompt + reply / 2)
    flops = forward(shape, batch, prompt + reply / 2, batch)
    first = forward(shape, batch * prompt, prompt, batch) / peak
    return first + reply * max(read / bandwidth, flops / peak)


def writing_bytes(shape: Shape, batch: int, length: float, wide: bool = False) -> float:
    """Bytes on a device that writes a batch of texts of that length."""
    held = (2 if wide else 1) * (2 * shape.parameters + batch * length * shape.cache)
    return held + batch * shape.vocabulary * LOGIT_BYTES
