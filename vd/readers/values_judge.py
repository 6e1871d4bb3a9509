"""Who judges values in texts: a reader that no reward asks, or a policy would be graded by what
it was trained on.

It shares neither encoder nor texts with the detector (vd/readers/values.py): features are the mean
over tokens of hidden states of SmolLM2-135M-Instruct, untrained, at `LAYERS`; a ridge regression on
them learns from the half of the training texts that the detector has not seen, its penalty by
cross-validation on that half. `LAYERS`, a third, two thirds and the end of the model's depth, were
set beforehand.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.finite import finite
from vd.models import loading, locate
from vd.models.threads import one_thread
from vd.readers import values
from vd.store import fingerprint
from vd.store.cache import kept_for
from vd.store.files import replace
from vd.store.fingerprint import Fingerprint
from vd.store.progress import Progress
from vd.study.settings import ModelSettings
from vd.values import NAMES

MODEL = ModelSettings(source="embedded:smollm2-135m-instruct", dtype="float32")
LAYERS = (10, 20, 30)
PENALTIES = np.logspace(1, 6, 11)
AT_ONCE = 32  # texts of a batch
LONGEST = 512  # tokens of a text that are read


class ValuesJudge:
    """A ridge regression on hidden states; `read` as a detector's."""

    def __init__(self, folder: Path, model: ModelSettings = MODEL):
        self.name, self.read_by = f"values-judge-{folder.name}", load_model(model)
        self.weights = dict(np.load(folder / "ridge.npz"))

    def read(self, texts: pd.Series) -> np.ndarray:
        """Points (N, 10) of texts, cut to [-1, 1]; an empty one has none of the values."""
        w = self.weights
        scaled = (features(texts, *self.read_by) - w["mean"]) / w["scale"]
        found = (scaled @ w["coef"].T + w["intercept"]).clip(-1, 1)
        found[(texts.str.strip() == "").to_numpy()] = 0
        return found


def load(model: ModelSettings = MODEL) -> ValuesJudge:
    """The judge, fitted on first use, in minutes."""
    corpus = paths.CORPORA / f"{values.CORPORA['detector']}.jsonl"
    read = {"texts": fingerprint.file_digest(corpus), "model": locate.identity(model)}
    code = fingerprint.code(f"{__name__}._fit")
    asked = Fingerprint(**fingerprint.values(model=model.source), data=read, code=code)
    folder = kept_for(paths.cache() / "values-judge", asked, lambda part: _fit(model, part))
    return ValuesJudge(folder, model)


def load_model(model: ModelSettings) -> tuple:
    """The language model whose hidden states are read, and its tokenizer."""
    tokenizer = loading.load_tokenizer(model)
    tokenizer.padding_side = "right"
    return loading.for_inference(model, None), tokenizer


def features(texts: pd.Series, language_model, tokenizer, report=lambda done: None) -> np.ndarray:
    """Hidden states (N, layers times width) of texts, the mean over their tokens."""
    import torch

    depth = language_model.config.num_hidden_layers
    layers = sorted({min(layer, depth) for layer in LAYERS})
    order = texts.str.len().to_numpy().argsort(kind="stable")  # so batches hold little padding
    found = np.zeros((len(texts), len(layers) * language_model.config.hidden_size), np.float32)
    with one_thread(), torch.inference_mode():
        for start in range(0, len(texts), AT_ONCE):
            rows = order[start : start + AT_ONCE]
            batch = tokenizer(
                texts.iloc[rows].tolist(),
                padding=True,
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
                add_special_tokens=False,
            ).to(language_model.device)
            if not batch["input_ids"].shape[1]:
                continue  # nothing but empty texts
            states = language_model.base_model(**batch, output_hidden_states=True).hidden_states
            mask = batch["attention_mask"][..., None]
            count = mask.sum(dim=1).clamp(min=1)
            means = [(states[layer] * mask).sum(dim=1) / count for layer in layers]
            found[rows] = torch.cat(means, dim=1).cpu().numpy()
            report(start + len(rows))
    finite(found, "a hidden state of the judge of values", "take another model")
    return found


def _fit(model: ModelSettings, folder: Path) -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    rows = values.split("detector")["other"]
    progress = Progress("judge", "reading texts for the judge of values", len(rows))
    scaler = StandardScaler()
    scaled = scaler.fit_transform(features(rows["text"], *load_model(model), progress))
    ridge = RidgeCV(PENALTIES).fit(scaled, rows[list(NAMES)].to_numpy(float))
    own = {"mean": scaler.mean_, "scale": scaler.scale_}
    own |= {"coef": ridge.coef_, "intercept": ridge.intercept_}
    with replace(folder / "ridge.npz") as part, open(part, "wb") as file:
        np.savez(file, **own)
