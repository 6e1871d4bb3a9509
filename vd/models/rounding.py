"""Weights in bfloat16 that keep small updates.

bfloat16 has 8 bits of precision. Where a base model's weights are bfloat16 numbers, as those of
most hub models are, rounding to the nearest takes an update of less than half a step back: one of
1e-4 of the weights would all but vanish, and with it the drift of early checkpoints and of low
learning rates. So weights are rounded by chance, up with a probability equal to the share of the
step that is left (Gupta et al. 2015, arXiv 1502.02551): on average nothing is lost. The thresholds
are drawn from the weight's name and are the same for every checkpoint, so that equal weights stay
equal, weights that bfloat16 can hold stay as they are, and checkpoints differ by their updates
alone.
"""

from zlib import crc32

LOST = 16  # bits of a float32 that bfloat16 has no room for


def rounded(weight, dtype, name: str):
    """A weight in another dtype; a float32 one becomes bfloat16 by thresholds of its name."""
    import torch

    if (weight.dtype, dtype) != (torch.float32, torch.bfloat16):
        return weight.to(dtype)
    chance = torch.Generator().manual_seed(crc32(name.encode()))
    drawn = torch.randint(0, 1 << LOST, weight.shape, generator=chance, dtype=torch.int32)
    # as integers, floats of one sign are in order: what is added carries over into bits that stay
    bits = weight.contiguous().view(torch.int32) + drawn.to(weight.device)
    return (bits & -(1 << LOST)).view(torch.float32).to(torch.bfloat16)
