"""What answers the probes: a checkpoint, however it was made.

A checkpoint's folder may hold a file `responder.json`. It is written by whoever makes the
checkpoint (a method whose result is more than one model's weights, or lies elsewhere) and read here
alone, so neither probing, judging nor evaluations learn which method that was. Without the file
the folder holds whole weights, or an adapter on the study's model.

    kind        key        what it holds
    elsewhere   source     weights that lie elsewhere: a hub name or a folder (a relative one from
                           the repository's root, `results/` follows VD_RESULTS), with whole
                           weights and their tokenizer, or an adapter on the study's model
                revision   hub commit; null takes the newest
    rewriter    rewriter   a subfolder with weights, or an object of kind elsewhere: the model that
                           rewrites what the first one answered (as the translator of VISA does)
                template   what the rewriter is told, with {prompt} and {reply}
    contrast    plus       a subfolder with weights
                minus      another one; null takes the model that is changed
                strength   a number, 1.0 if left out

    server      server     the keys of an OpenAI-compatible server (vd/study/servers.py), whose
                           model answers
                study      the study whose budget it is

The model that a rewriter or a contrast starts from is the one whose weights lie beside the file, or
else the study's. A contrast changes the scores z of each next token before it is drawn,

    z = z_base + strength (z_plus - z_minus)

(DExperts, Liu et al. 2021, arXiv 2105.03023); all three need the same vocabulary. `dtype` and
`prompt_format` are the study's everywhere. A subfolder holds whole weights or an adapter on the
study's model and is read with the study's tokenizer. Random numbers are keyed in
`vd.probing.sampling`; those of a rewriting differ from those of the reply that is rewritten.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from vd.models import loading
from vd.models.weights import DROPPED
from vd.probing.behind import Behind
from vd.probing.sampling import ask
from vd.probing.scores import next_scores
from vd.study.settings import ModelSettings, Probing, WriterSettings
from vd.study.types import Settings

FILE = "responder.json"
REWRITING = "/rewrite"  # keys the random numbers of the second pass


class Elsewhere(Settings):
    """Weights that lie elsewhere."""

    kind: Literal["elsewhere"]
    source: str = Field(min_length=1)
    revision: str | None = None


class Rewriter(Settings):
    """A second model rewrites each reply."""

    kind: Literal["rewriter"]
    rewriter: str | Elsewhere
    template: str

    @field_validator("template")
    @classmethod
    def _tells_the_reply(cls, template: str) -> str:
        if "{reply}" not in template:
            raise ValueError("write {reply} where the reply belongs")
        return template


class Contrast(Settings):
    """Two models' difference changes the scores of a third."""

    kind: Literal["contrast"]
    plus: str
    minus: str | None = None
    strength: float = Field(1.0, allow_inf_nan=False)


class Server(Settings):
    """A model behind a server."""

    kind: Literal["server"]
    server: WriterSettings
    study: str


KINDS = Elsewhere | Rewriter | Contrast | Server
KINDS = TypeAdapter(Annotated[KINDS, Field(discriminator="kind")])


@dataclass(frozen=True)
class Responder:
    """One model that answers."""

    model: object
    tokenizer: object
    has_likelihood: ClassVar[bool] = True  # whether `logits` says how likely a reply is

    def respond(
        self, asked: pd.DataFrame, probing: Probing, seed: int, report: Callable | None = None
    ) -> pd.DataFrame:
        """Replies to rows (prompt_id, topic, prompt), as `sampling.ask` returns them."""
        return ask(self.model, self.tokenizer, asked, probing, seed, report)

    def logits(self, input_ids, attention_mask):
        """Scores (B, T, V), float32, of the token after each of `input_ids` (B, T)."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits.float()

    def first_scores(self, input_ids, attention_mask):
        """Scores (B, V), float32, of the first token after prompts (B, T) padded on the left."""
        return next_scores(self.model, attention_mask)(input_ids)


@dataclass(frozen=True)
class Contrasting(Responder):
    """A model whose scores are changed by the difference of two others."""

    plus: object
    minus: object | None
    strength: float

    def respond(self, asked, probing, seed, report=None):
        """As a responder; all models read the same tokens."""
        return ask(self.model, self.tokenizer, asked, probing, seed, report, shift=self._shift)

    def logits(self, input_ids, attention_mask):
        """Changed scores (B, T, V), float32, as a responder's."""
        read = {"input_ids": input_ids, "attention_mask": attention_mask}
        scores, plus = super().logits(**read), self.plus(**read).logits.float()
        # without minus the contrast is with the model itself, z + strength (z_plus - z)
        minus = self.minus(**read).logits.float() if self.minus else scores
        return scores + self.strength * (plus - minus)

    def first_scores(self, input_ids, attention_mask):
        """Changed scores (B, V), float32, as a responder's."""
        scores = super().first_scores(input_ids, attention_mask)
        return self._shift(attention_mask)(input_ids, scores)

    def _shift(self, attention_mask) -> Callable:
        """A logits processor for one batch of prompts with this mask (B, T)."""
        plus = next_scores(self.plus, attention_mask)
        minus = next_scores(self.minus, attention_mask) if self.minus else None

        def shift(input_ids, scores):
            other = minus(input_ids) if minus else scores
            return scores + self.strength * (plus(input_ids) - other)

        return shift


@dataclass(frozen=True)
class Rewriting:
    """A responder whose replies a second model rewrites; the draft is not kept.

    `n_tokens` and `finish_reason` are those of the rewritten reply, and so is the limit
    probing.max_new_tokens, which holds for the draft as well.
    """

    first: Responder
    second: Responder
    template: str
    # a rewritten reply could have come from any draft, so no sum over them is at hand
    has_likelihood: ClassVar[bool] = False

    def respond(self, asked, probing, seed, report=None):
        """As a responder; progress counts a reply when half of the two passes are through."""
        report, total = report or (lambda n: None), len(asked) * probing.samples
        drafts = self.first.respond(asked, probing, seed, lambda n: report(n // 2))
        pairs = zip(drafts["prompt"], drafts["response"], strict=True)
        told = drafts.assign(prompt=[self._told(prompt, reply) for prompt, reply in pairs])
        # drafts have a column `sample`, so each is rewritten once, as that sample
        rewritten = ask(
            self.second.model,
            self.second.tokenizer,
            told,
            probing,
            seed,
            lambda n: report((total + n) // 2),
            purpose=REWRITING,
        )
        return rewritten.assign(prompt=drafts["prompt"])

    def _told(self, prompt: str, reply: str) -> str:
        # in one pass: a reply that holds "{prompt}" itself stays as it is
        texts = {"{prompt}": prompt, "{reply}": reply}
        return re.sub(r"\{prompt\}|\{reply\}", lambda found: texts[found[0]], self.template)


def load_responder(model: ModelSettings, checkpoint: Path | None) -> Responder | Rewriting | Behind:
    """What answers for a checkpoint's folder; None is the study's model as it is.

    Raises ValueError with file, key and fix where `responder.json` or its weights are broken.
    """
    if checkpoint and (checkpoint / DROPPED).exists():
        fix = "write keep: all and train the run again"
        raise ValueError(f"{checkpoint}: its weights were dropped once it was asked; {fix}")
    spec = _read(checkpoint) if checkpoint else None
    if spec is None:
        return _of_study(model, checkpoint)
    try:
        return MAKERS[spec.kind](spec, model, checkpoint)
    except ValueError as error:
        raise ValueError(f"{checkpoint / FILE}: {error}") from None


def description(checkpoint: Path | None) -> str | None:
    """The text of a checkpoint's responder.json, which replies depend on; None if it has none."""
    file = checkpoint / FILE if checkpoint else None
    return file.read_text(encoding="utf-8") if file and file.exists() else None


def _read(checkpoint: Path):
    text, file = description(checkpoint), checkpoint / FILE
    if text is None:
        return None
    fix = "the table in vd/probing/responders.py says what it may hold"
    try:
        return KINDS.validate_python(json.loads(text))
    except ValidationError as error:
        wrong = error.errors()[0]
        # pydantic puts the kind before a key
        key = ".".join(map(str, wrong["loc"][1:])) or "kind"
        raise ValueError(f"{file}: {key}: {wrong['msg']}; {fix}") from None
    except ValueError as error:
        raise ValueError(f"{file}: no JSON ({error}); make the checkpoint again") from None


def _of_study(model: ModelSettings, folder: Path | None) -> Responder:
    """The study's model, or weights in a folder, with the study's tokenizer."""
    return Responder(loading.for_inference(model, folder), loading.load_tokenizer(model))


def _elsewhere(spec: Elsewhere, model: ModelSettings, checkpoint: Path) -> Responder:
    try:
        return Responder(*loading.from_elsewhere(model, spec.source, spec.revision))
    except ValueError as error:
        raise ValueError(f"source: {error}") from None


def _rewriter(spec: Rewriter, model: ModelSettings, checkpoint: Path) -> Rewriting:
    if isinstance(spec.rewriter, Elsewhere):
        second = _elsewhere(spec.rewriter, model, checkpoint)
    else:
        second = _of_study(model, _part(checkpoint, "rewriter", spec.rewriter))
    return Rewriting(_of_study(model, _beside(checkpoint)), second, spec.template)


def _contrast(spec: Contrast, model: ModelSettings, checkpoint: Path) -> Contrasting:
    base, others = _of_study(model, _beside(checkpoint)), {}
    for key in ("plus", "minus"):
        name = getattr(spec, key)
        folder = _part(checkpoint, key, name) if name is not None else None
        others[key] = loading.for_inference(model, folder) if folder else None
        if folder and (size := _vocabulary(others[key])) != _vocabulary(base.model):
            said = f"'{name}' scores {size} tokens, the model {_vocabulary(base.model)}"
            raise ValueError(f"{key}: {said}; take weights with the same vocabulary")
    return Contrasting(base.model, base.tokenizer, others["plus"], others["minus"], spec.strength)


def _behind(spec: Server, model: ModelSettings, checkpoint: Path) -> Behind:
    return Behind(spec.server, spec.study)


MAKERS = {"elsewhere": _elsewhere, "rewriter": _rewriter, "contrast": _contrast, "server": _behind}


def _beside(checkpoint: Path) -> Path | None:
    """The checkpoint's folder if weights lie beside its responder.json, else None."""
    there = any((checkpoint / n).exists() for n in ("config.json", "adapter_config.json"))
    return checkpoint if there else None


def _part(checkpoint: Path, key: str, name: str) -> Path:
    """A subfolder of a checkpoint; ValueError if it is none, since paths out of it do not travel
    with it.
    """
    folder = checkpoint / name
    inside = folder.resolve().is_relative_to(checkpoint.resolve()) and folder != checkpoint
    if not (name and inside and folder.is_dir()):
        raise ValueError(
            f"{key}: no folder '{name}' in the checkpoint; name one that holds weights"
        )
    return folder


def _vocabulary(model) -> int:
    return model.config.get_text_config().vocab_size
