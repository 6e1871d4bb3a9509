"""How much a run reads: rows and their lengths in tokens, read where they lie, else as declared."""

from dataclasses import dataclass

import numpy as np

from vd import paths
from vd.data import reading, sets
from vd.store import formats
from vd.study.catalogue import EMBEDDED, PUBLIC
from vd.study.runs import Run

CHARACTERS = 4.3  # of English text in a token of a large vocabulary
# tokens that are written around a prompt and a reply; chat templates bring a system message
TEMPLATE = {"chat": 25, "response": 3}
PADDING = 1.3  # of a batch whose lengths are not known: texts are filled up to the longest
DRAWS = 200  # batches that are drawn to see how much is filled up


@dataclass(frozen=True)
class Reading:
    """What a run trains on."""

    rows: int
    prompt: float  # tokens, on average
    reply: float  # of one reply
    padding: float  # tokens of a batch with its padding, over those without
    longest: float  # of one text, in tokens


def reading_of(run: Run) -> Reading | None:
    """What a run trains on; None where its data are made by a recipe that has not run yet."""
    s, name = run.training, run.training.data
    declared = PUBLIC[name].size if name in PUBLIC else None
    if name in EMBEDDED or reading.mirrored(name):
        found = _read(run, sets.corpus(name, s.filters, s.examples, run.seed))
        # a mirror may hold slices: lengths are theirs, rows those of the whole set
        rows = max(found.rows, declared[0] if declared else 0)
    elif formats.is_file(name):
        if not paths.data_file(name).exists():
            return None
        found = _read(run, sets.corpus(name, s.filters, s.examples, run.seed))
        rows = found.rows
    else:
        rows, prompt, reply = declared
        around = TEMPLATE[run.model_settings.prompt_format]
        cut = min(s.max_length, (prompt + reply) / CHARACTERS + around)
        part = prompt / (prompt + reply)
        found = Reading(rows, cut * part, cut * (1 - part), PADDING, s.max_length)
    rows = min(rows, s.examples or rows)
    held_out = getattr(s, "held_out", 0.0)
    rows = round(rows * (1 - held_out))
    return Reading(rows, found.prompt, found.reply, found.padding, found.longest)


def _read(run: Run, table) -> Reading:
    s = run.training
    prompts = _tokens(table["prompt"]) + TEMPLATE[run.model_settings.prompt_format]
    if "history" in table:
        prompts += table["history"].map(_characters).to_numpy() / CHARACTERS
    limit = getattr(s, "response_length", None) or s.max_length
    told = [np.minimum(own + 1, limit) for own in _replies(table)]
    lengths = [np.minimum(prompts + own, s.max_length) for own in told]
    batches = np.random.default_rng(0).integers(len(table), size=(DRAWS, s.device_batch))
    both = np.max(lengths, axis=0)
    padding = both[batches].max(axis=1).mean() / np.mean(lengths)
    reply = np.mean([own - np.minimum(prompts, own) for own in lengths])
    return Reading(len(table), float(np.mean(lengths) - reply), float(reply), padding, both.max())


def _replies(table) -> list[np.ndarray]:
    """Tokens of each reply of all rows; of prompts alone, which has none, nothing."""
    if "completions" in table:  # steps, which are read as one text
        return [table["completions"].map(" ".join).str.len().to_numpy(float) / CHARACTERS]
    there = [name for name in ("completion", "chosen", "rejected") if name in table]
    return [_tokens(table[name]) for name in there] or [np.zeros(len(table))]


def _tokens(texts) -> np.ndarray:
    return texts.str.len().to_numpy(float) / CHARACTERS


def _characters(messages) -> int:
    return sum(len(message["content"]) for message in messages)
