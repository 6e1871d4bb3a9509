"""Small classifiers of (prompt, reply) that are fine-tuned here: judges of all kinds.

A cross-encoder reads both texts at once and has a softmax over classes. Several that differ in the
seed of their training are read side by side, since one alone says nothing of its own chance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import softmax

from vd.finite import finite
from vd.models import locate
from vd.models.precision import has_bfloat16
from vd.models.threads import one_thread

PAIR = ["prompt", "response"]
AT_ONCE = 64  # pairs of a batch that is scored


@dataclass(frozen=True)
class Training:
    """How an encoder becomes a classifier: AdamW, linear decay after a tenth of warm-up,
    cross-entropy.
    """

    name: str  # of what is trained, and of the key of its learning rate, for errors
    key: str
    classes: int
    epochs: int
    learning_rate: float
    batch_size: int
    max_length: int  # tokens of both texts together
    seed: int


def train(
    source: str,
    rows: pd.DataFrame,
    target: list[int],
    how: Training,
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fine-tune an encoder on rows (prompt, response) with their classes, and keep it in a folder.

    `progress` is called with the number of steps done. Raises NotFiniteError for a loss that is no
    number.
    """
    import torch

    classes = torch.tensor(target)

    def loss(score, batch):
        logits = score(rows.iloc[batch])
        return torch.nn.functional.cross_entropy(logits, classes[batch])

    _fit(source, len(rows), loss, how, folder, progress)


def train_on_numbers(
    source: str,
    rows: pd.DataFrame,
    target: np.ndarray,
    how: Training,
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fine-tune an encoder on rows (prompt, response) with numbers (N, K) in [-1, 1], as `train`
    does on classes: L = mean (tanh(z) - target)^2.
    """
    import torch

    numbers = torch.tensor(target, dtype=torch.float32)

    def loss(score, batch):
        return torch.nn.functional.mse_loss(score(rows.iloc[batch]).tanh(), numbers[batch])

    _fit(source, len(rows), loss, how, folder, progress)


def train_on_pairs(
    source: str,
    pairs: pd.DataFrame,
    how: Training,
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fine-tune an encoder with one output on pairs (prompt, chosen, rejected), as `train` does on
    classes: L = -log sigmoid(s(x, y_w) - s(x, y_l)) (Bradley and Terry 1952).
    """
    import torch

    sides = [pairs.rename(columns={side: "response"})[PAIR] for side in ("chosen", "rejected")]

    def loss(score, batch):
        both = score(pd.concat([side.iloc[batch] for side in sides]))[:, 0]
        chosen, rejected = both.chunk(2)
        return -torch.nn.functional.logsigmoid(chosen - rejected).mean()

    _fit(source, len(pairs), loss, how, folder, progress)


def _fit(source: str, n: int, loss_of: Callable, how: Training, folder: Path, progress) -> None:
    """Fine-tune an encoder on n examples; `loss_of` gives the loss of some, by their numbers and a
    function from rows (prompt, response) to logits (N, classes).
    """
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        get_linear_schedule_with_warmup,
    )

    source = locate.locate(source)
    # for the classifier, which starts fresh, and for the order of rows
    torch.manual_seed(how.seed)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=how.classes, dtype=torch.float32
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=0.01)
    steps = steps_of(how, n)
    schedule, done = get_linear_schedule_with_warmup(optimizer, steps // 10, steps), 0
    model.train()

    def score(rows):
        texts = encode(tokenizer, rows, how.max_length)
        # half the time of float32, where a machine has it; scoring is in float32
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            return model(**texts).logits.float()

    # the number of threads changes the last digits, and a judge should not
    with one_thread():
        for _ in range(how.epochs):
            for batch in torch.randperm(n).split(how.batch_size):
                loss = loss_of(score, batch.numpy())
                what = f"{how.name}: the loss of step {done + 1}"
                finite(loss.item(), what, f"lower {how.key}")
                loss.backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                done += 1
                progress(done)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def steps_of(how: Training, n: int) -> int:
    """Optimiser steps of a training on n rows."""
    return how.epochs * -(-n // how.batch_size)


class CrossEncoders:
    """Trained classifiers of one kind, from their folders."""

    def __init__(self, folders: list[Path], max_length: int, name: str):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.folders, self.max_length, self.name = folders, max_length, name
        self.tokenizer = AutoTokenizer.from_pretrained(folders[0])
        self.models = [
            AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
            for folder in folders
        ]

    def probabilities(
        self, rows: pd.DataFrame, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Class probabilities (members, N, classes) of rows (prompt, response).

        Identical pairs are scored once, in order of length, so batches hold little padding. Raises
        NotFiniteError for one whose weights are damaged.
        """
        return softmax(self.logits(rows, progress), axis=-1)

    def logits(
        self, rows: pd.DataFrame, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """What `probabilities` are the softmax of; of one output, the score."""
        import torch

        pairs = rows[PAIR].drop_duplicates()
        pairs = pairs.assign(length=pairs["prompt"].str.len() + pairs["response"].str.len())
        pairs = pairs.sort_values(["length", *PAIR])
        found = np.empty((len(self.models), len(pairs), self.models[0].config.num_labels))
        for start in range(0, len(pairs), AT_ONCE):
            batch = pairs.iloc[start : start + AT_ONCE]
            texts = encode(self.tokenizer, batch, self.max_length)
            for member, model in enumerate(self.models):
                with torch.inference_mode():
                    logits = model(**texts).logits
                # NaN would pass for a class further on: argmax of NaN is the first one
                fix = f"remove {self.folders[member]} to train it again"
                finite(logits, f"{self.name}: a score", fix)
                found[member, start : start + AT_ONCE] = logits.double().numpy()
            if progress:
                progress(start + len(batch))
        # back to all rows, in their order
        place = pd.Series(np.arange(len(pairs)), pd.MultiIndex.from_frame(pairs[PAIR]))
        return found[:, place.loc[pd.MultiIndex.from_frame(rows[PAIR])].to_numpy()]


def encode(tokenizer, rows: pd.DataFrame, max_length: int):
    """Tokens of pairs, padded to one length."""
    return tokenizer(
        rows["prompt"].tolist(),
        rows["response"].tolist(),
        truncation=True,
        max_length=max_length,
        padding=True,
        return_tensors="pt",
        split_special_tokens=True,  # what looks like a special token in a text is text
    )
