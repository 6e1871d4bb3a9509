"""Who writes: a run of the study, or a server. Every reply is kept the moment it is there.

A writer takes a table of what to ask (prompt_id, unique, and prompt, the whole message) and gives
one with the same index:

    response        what was written, "" for nothing
    failure         "" for a whole reply, else empty, length (cut at max_new_tokens),
                    content_filter (the server withheld it) or rejected (it would not answer)
    prompt_tokens, reply_tokens     numbers of tokens; NaN where nobody counts them
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pandas as pd

from vd import paths
from vd.finite import NotFiniteError
from vd.models import locate
from vd.probing.responders import load_responder
from vd.servers.database import Cache, request_key
from vd.servers.kept import ask_missing, message
from vd.store import files, fingerprint
from vd.store.fingerprint import Fingerprint
from vd.store.progress import Progress
from vd.study.load import Study
from vd.study.recipes import find_run
from vd.study.runs import Run
from vd.study.settings import Probing, RecipeSettings, WriterSettings

REPLIES = "replies.parquet"  # what a run wrote, in the recipe's folder
WEIGHTS = (".safetensors", ".bin")
COLUMNS = ["key", "prompt_id", "response", "n_tokens", "finish_reason"]


class Writer(Protocol):
    """Anything that writes replies."""

    settings: WriterSettings | None  # of a server

    def ask(self, asked: pd.DataFrame) -> pd.DataFrame:
        """Replies to rows of prompt_id and prompt, as the module says."""

    def provenance(self) -> dict:
        """Who wrote and how it was sampled, as columns of a row."""


def find_writer(study: Study, name: str, settings: RecipeSettings, version: str) -> Writer:
    """The writer that a recipe names; FileNotFoundError if it is a run that is not trained.

    `version` is that of the recipe; a server's answers are kept under it.
    """
    if isinstance(settings.writer, WriterSettings):
        return ServerWriter(study.name, settings, version)
    return RunWriter(
        find_run(study, settings.writer), settings, paths.recipe(study.name, name) / REPLIES
    )


class RunWriter:
    """The last checkpoint of a run."""

    settings = None  # nobody is paid

    def __init__(self, run: Run, settings: RecipeSettings, file: Path):
        self.run, self.asked_with, self.file = run, settings, file
        self.checkpoint = paths.last_checkpoint(run.study, run.id)
        if self.checkpoint is None and not run.is_base:
            place = paths.checkpoints(run.study, run.id)
            raise FileNotFoundError(f"{place}: no checkpoints; train the run first")

    @property
    def step(self) -> int:
        """Training steps of the checkpoint; 0 for the model as it came."""
        return int(self.checkpoint.name.rpartition("-")[2]) if self.checkpoint else 0

    def provenance(self) -> dict:
        """See `Writer`."""
        asked = self.asked_with
        return {
            "writer": self.run.id,
            "writer_step": self.step,
            "temperature": asked.temperature,
            "max_new_tokens": asked.max_new_tokens,
            "seed": asked.seed,
        }

    def ask(self, asked: pd.DataFrame) -> pd.DataFrame:
        """See `Writer`. Random numbers are keyed by the recipe's seed and by prompt_id."""
        made_from = self.fingerprint().key
        both = zip(asked["prompt_id"], asked["prompt"], strict=True)
        keyed = asked.assign(key=[fingerprint.digest(made_from, *pair) for pair in both])
        said, size = ("write", self.run.id), self.asked_with.batch_size
        found = kept_answers(keyed, self.file, COLUMNS, self._responder, size, said)
        found = found.set_index(asked.index)
        # only `stop` means whole; any other reason why a reply ended is its failure
        failure = found["finish_reason"].where(found["finish_reason"] != "stop", "")
        return pd.DataFrame(
            {
                "response": found["response"],
                "failure": failure.where(found["response"].str.strip() != "", "empty"),
                "prompt_tokens": float("nan"),  # nobody pays for them
                "reply_tokens": found["n_tokens"],
            }
        )

    def _responder(self) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """A function from prompts to replies; the one place that knows how a run is loaded."""
        responder = load_responder(self.run.model_settings, self.checkpoint)
        asked = self.asked_with
        probing = Probing(
            samples=1,
            temperature=asked.temperature,
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.batch_size,
        )

        def write(batch: pd.DataFrame) -> pd.DataFrame:
            rows = batch.assign(topic="")  # which probing asks for, and no reply depends on
            try:
                return responder.respond(rows, probing, asked.seed)
            except NotFiniteError as error:
                place = f"{self.run.id}, step {self.step}"
                raise NotFiniteError(f"{place}: {error.what}", error.fix) from None

        return write

    def fingerprint(self) -> Fingerprint:
        """What a reply depends on, beside its prompt: weights, sampling, and the code for both."""
        asked = self.asked_with
        found = sorted(self.checkpoint.rglob("*")) if self.checkpoint else []
        # responder.json says how weights answer together, or where they lie.
        found = [f for f in found if f.suffix in WEIGHTS or f.name == "responder.json"]
        data = {file.name: fingerprint.file_digest(file) for file in found}
        return Fingerprint(
            settings={
                "dtype": self.run.model_settings.dtype,
                "prompt_format": self.run.model_settings.prompt_format,
                "temperature": asked.temperature,
                "max_new_tokens": asked.max_new_tokens,
                "seed": asked.seed,
            },
            data=data | {"model": locate.identity(self.run.model_settings)},
            code=fingerprint.code("vd.probing.responders.load_responder"),
        )


def kept_answers(
    asked: pd.DataFrame,
    file: Path,
    columns: list[str],
    load: Callable[[], Callable[[pd.DataFrame], pd.DataFrame]],
    size: int,
    said: tuple[str, str],
) -> pd.DataFrame:
    """`columns` for rows of key, prompt_id and prompt, in their order: from a file, or from the
    function that `load` gives, `size` at a time, kept in the file with `key` at once. `said` is the
    stage and who works, for progress.
    """
    kept = pd.read_parquet(file) if file.exists() else pd.DataFrame(columns=columns)
    # Alike lengths go together, for little padding. Batches are cut before what is kept is left
    # out: one that a killed process missed is then asked as it would have been.
    ordered = asked.assign(length=asked["prompt"].str.len()).sort_values(["length", "prompt_id"])
    batches = [ordered.iloc[start : start + size] for start in range(0, len(ordered), size)]
    missing = [batch[~batch["key"].isin(kept["key"])] for batch in batches]
    missing = [batch for batch in missing if len(batch)]
    progress = Progress(*said, sum(map(len, missing)))
    # Weights are loaded for what is missing alone: a finished recipe costs no memory.
    answer, done = load() if missing else None, 0
    for batch in missing:
        found = answer(batch).assign(key=batch["key"].to_numpy())
        kept = pd.concat([kept, found[columns]], ignore_index=True)
        # The whole file again for each batch: it is small beside what the batch took to write.
        files.write_table(kept, file)
        progress(done := done + len(batch))
    # it holds answers of earlier sizes too: what was asked now is looked up
    return kept.drop_duplicates("key").set_index("key").loc[asked["key"]]


class ServerWriter:
    """A model behind a server that speaks chat completions.

    Its answers are kept for all studies, under a hash of exactly what was asked.
    """

    def __init__(self, study: str, settings: RecipeSettings, version: str):
        self.study, self.asked_with, self.version = study, settings, version
        self.settings = settings.writer

    @property
    def temperature(self) -> float:
        """The writer's own, or the recipe's."""
        own = self.settings.temperature
        return self.asked_with.temperature if own is None else own

    def provenance(self) -> dict:
        """See `Writer`."""
        return {
            "writer": self.settings.model,
            "writer_step": None,
            "temperature": self.temperature,
            "top_p": self.settings.top_p,
            "max_new_tokens": self.asked_with.max_new_tokens,
            "seed": self.asked_with.seed if self.settings.sends_seed else None,
        }

    def ask(self, asked: pd.DataFrame) -> pd.DataFrame:
        """See `Writer`. Raises ServerError, BudgetError and CacheError of vd.servers."""
        how = self.asked_with.temperature, self.asked_with.max_new_tokens, self.asked_with.seed
        requests = [message(self.settings, prompt, *how) for prompt in asked["prompt"]]
        keys = [request_key(self.settings.base_url, request) for request in requests]
        # Two prompts may be alike: they are one request, and get one answer.
        wanted = dict(zip(keys, requests, strict=True))
        progress = Progress("write", self.settings.model, len(wanted))
        with Cache(paths.cache() / "recipes" / "answers.sqlite") as cache:
            how = self.settings, cache, self.study, progress
            answers = ask_missing(wanted, *how, prompt=self.version)
        return pd.DataFrame([_reply(answers[key]) for key in keys], index=asked.index)


def _reply(answer: dict) -> dict:
    """An answer of a server (see vd.servers.answers) as a row."""
    # One request that the server will not answer, such as one too long, costs its row alone.
    if "rejected" in answer:
        # unknown, and so is the sum of all (see `cost` in vd/recipes/making.py)
        nothing = {"prompt_tokens": float("nan"), "reply_tokens": float("nan")}
        return {"response": "", "failure": "rejected", **nothing}
    reply, reason = answer["content"].strip(), answer["finish_reason"]
    return {
        "response": reply,
        "failure": reason if reason in ("length", "content_filter") else "" if reply else "empty",
        "prompt_tokens": _number(answer["tokens_in"]),
        "reply_tokens": _number(answer["tokens_out"]),
    }


def _number(tokens: int | None) -> float:
    return float("nan") if tokens is None else float(tokens)
