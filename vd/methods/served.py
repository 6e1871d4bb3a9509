"""Models behind a server: nothing is trained, and they are traced by what they reply.

A study names what each step is: a model of an OpenAI-compatible server, such as the dated versions
of one that is sold, or stages that somebody serves:

    method: served
    checkpoints:
      0: some-model-2025-01-01
      1: some-model-2026-01-01
    server:
      base_url: https://models.example/v1
      price_in: 2.5
      price_out: 10.0
      budget_dollars: 5.0

Keys of a server: vd/study/servers.py. Steps are yours to name; drift time counts in them. Weights
are out of reach, so nothing is known but replies: no odds of Yes against No, no divergence, and
no run can go on from here.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vd.methods.given import Step, write_series
from vd.store.progress import Timer
from vd.study.runs import Run
from vd.study.settings import MethodSettings, WriterSettings
from vd.study.types import WORDS

READS = None
MAKES = "policy"
CURVES = ()


class Server(WriterSettings):
    """The server of all steps."""

    model: Literal["by step"] = "by step"  # each step names its own


class Settings(MethodSettings):
    """Keys of a served series."""

    checkpoints: dict[Step, Annotated[str, Field(pattern=WORDS)]] = Field(min_length=1)
    server: Server = Server()


def train(run: Run) -> list[Path]:
    """Say in every checkpoint's folder who answers for it; nobody has seen its weights."""
    s = run.settings
    # all keys, also those that a dump leaves out because they change no answer
    keys = {name: getattr(s.server, name) for name in Server.model_fields}
    about = {
        step: {"kind": "server", "server": keys | {"model": model}, "study": run.study}
        for step, model in s.checkpoints.items()
    }
    return write_series(run, Timer(), about, weights={}, revisions=s.checkpoints)
