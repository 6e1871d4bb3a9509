"""Draws of prompts and replies, and what seeds add: the numbers behind vd/drift/bootstrap.py."""

import numpy as np


def two_stage(scores: np.ndarray, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """Two-stage bootstrap replicates (B, ...) of the mean over prompts and samples of scores (P, S,
    ...).

    Prompts are drawn with replacement, then as many replies as before within each drawn prompt. The
    means of the drawn prompts already carry the spread of their replies, so the plain two-stage
    bootstrap counts that spread twice; the first stage is therefore scaled to make the total
    variance the unbiased one (Davison & Hinkley 1997, section 3.8).
    """
    n_prompts, n_samples = scores.shape[:2]
    flat = scores.reshape(n_prompts, n_samples, -1)
    means = flat.mean(axis=1)
    value = means.mean(axis=0)
    # counts instead of indices: a prompt drawn k times gets k times as many replies
    prompts = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_boot)
    replies = rng.multinomial(prompts * n_samples, np.full(n_samples, 1 / n_samples))
    # what a replicate owes to its prompts, and what to the replies drawn within them
    first = prompts @ means / n_prompts - value
    second = (
        replies.reshape(n_boot, -1) @ flat.reshape(-1, flat.shape[2]) / (n_prompts * n_samples)
        - value
        - first
    )
    if n_prompts > 1:
        wanted = means.var(axis=0, ddof=1)  # n_prompts times the variance of the estimate
        # replies add (variance within prompts) / n_samples, so prompts get the rest of `wanted`
        scale = np.divide(
            wanted - flat.var(axis=1).mean(axis=0) / n_samples,
            means.var(axis=0),
            out=np.ones_like(wanted),
            where=wanted > 0,
        )
        # replies alone may explain more than `wanted`; then prompts add nothing
        first = first * np.sqrt(np.clip(scale, 0, None))
    return (value + first + second).reshape(n_boot, *scores.shape[2:])


def seed_deviations(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far seeds lie from their mean, (S, ...), and the variance (...) that prompts and replies
    alone give them.

    Scores are (seeds, prompts, samples, ...). What all seeds share at a prompt cancels; that
    variance is estimated from the residuals of the table of seeds by prompts.
    """
    cells = scores.mean(axis=2)
    deviations = cells.mean(axis=1) - cells.mean(axis=(0, 1))
    # a table of two ways without replication: what neither seed nor prompt explains
    residuals = cells - cells.mean(axis=0) - deviations[:, None]
    n_seeds, n_prompts = cells.shape[:2]
    df = max((n_seeds - 1) * (n_prompts - 1), 1)
    return deviations, (residuals**2).sum(axis=(0, 1)) / df / n_prompts


def satterthwaite(prompts, prompts_df, observed, excess, n_seeds: int) -> np.ndarray:
    """Degrees of freedom of a variance `prompts` + `excess` / n_seeds.

    `observed` is the variance between seeds, `excess` what of it prompts and replies do not
    explain. The seeds' part enters with its noise, because it is as uncertain as that makes it.
    """
    # df = (sum of variances)^2 / sum of (variance^2 / its own df)
    uncertain = prompts**2 / prompts_df + (observed / n_seeds) ** 2 / (n_seeds - 1)
    whole = (prompts + excess / n_seeds) ** 2
    plain = np.broadcast_to(np.asarray(prompts_df, float), np.shape(whole)).copy()
    df = np.divide(whole, uncertain, out=plain, where=np.asarray(uncertain) > 0)
    # never less than the scarcer of the two sources has alone
    return np.maximum(df, np.minimum(n_seeds - 1, prompts_df))
