"""Settings of OpenAI-compatible servers: who answers, at which price, within which budget."""

import ipaddress
import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vd.study.types import WORDS, Settings

OPENAI = "https://api.openai.com/v1"
ADDRESS = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[!-~]*)?", re.ASCII)


def _has_place(url: str) -> bool:
    """Whether the server's name and port can be some."""
    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port
        if ":" in host or not re.search("[a-z_-]", host):  # numbers
            ipaddress.ip_address(host)
    except ValueError:
        return False
    # 0 lets a server choose a port; none can be reached there
    return port != 0


class ServerSettings(Settings):
    """An OpenAI-compatible server, and how it is asked.

    Keys that change no answer are left out when settings are written down or hashed, so changing
    them re-runs nothing.
    """

    # the name that the server gives it; a dated one, since what others mean changes
    model: str = Field(min_length=1, pattern=WORDS)
    base_url: str = OPENAI  # mostly ends in /v1
    # the name by which it signs its answers, where that is another: an alias, a deployment
    answers_as: str | None = Field(None, min_length=1, pattern=WORDS, exclude=True)
    max_in_flight: PositiveInt = Field(32, exclude=True)  # requests at a time
    # seconds per request, from sending it to the last byte of its answer
    timeout: PositiveFloat = Field(60.0, exclude=True, le=86400)
    retries: int = Field(
        10, ge=0, exclude=True
    )  # after 408, 409, 429, 5xx, lost connections and broken replies
    price_in: float = Field(0.0, ge=0, exclude=True)  # dollars for a million prompt tokens
    price_out: float = Field(0.0, ge=0, exclude=True)  # dollars for a million reply tokens
    budget_dollars: float | None = Field(
        None, ge=0, exclude=True
    )  # of a study in all its runs; None sets no limit
    budget_calls: int | None = Field(None, ge=0, exclude=True)

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        # Records and tables hold the address, so no password or key may be a part of it.
        if re.search(r"[?#@]", url):
            raise ValueError("write the address alone; a key goes into OPENAI_API_KEY")
        if not ADDRESS.fullmatch(url) or not _has_place(url):
            raise ValueError("write http:// or https://, the server's name, and mostly /v1")
        # openai's client adds /chat/completions by itself
        if url.rstrip("/").endswith("/completions"):
            raise ValueError("leave out what follows /v1")
        return url

    @model_validator(mode="after")
    def _priced(self):
        # at prices of zero nothing is ever spent, and the budget would stop nobody
        if self.budget_dollars is not None and not self.price_in + self.price_out:
            raise PydanticCustomError("price", "budget_dollars needs price_in and price_out")
        return self


class ApiJudgeSettings(ServerSettings):
    """A judge behind an API, on top of the offline one."""

    prompt: str = "stance-v1"  # a file of vd/prompts
    share: float = Field(
        1.0, gt=0, le=1
    )  # of the replies, drawn at random; the offline judge scores all
    temperature: float = Field(0.0, ge=0)
    votes: PositiveInt = 5  # answers per reply where the server gives no log-probabilities
    vote_temperature: float = Field(1.0, ge=0)
    seed: int = 0  # of the draw and of the requests
    batch: bool = Field(False, exclude=True)  # the Batch API: half the price, within a day


class FeedbackApi(ApiJudgeSettings):
    """A server that labels pairs by a principle."""

    prompt: str = "feedback-v1"
    share: Literal[1.0] = 1.0


class TranslatorApi(ApiJudgeSettings):
    """A server that reads orders to change values."""

    prompt: str = "translator-v1"
    share: Literal[1.0] = 1.0
