"""Asking an OpenAI-compatible server many things at once: nothing lost, nothing beyond the budget, no hammering.

Requests are bodies of chat completions. A bounded number is in flight. Failures that may pass (408, 409, 425, 429, 5xx,
lost connections, time-outs, broken or empty replies) are repeated after exponential pauses with jitter; where a server
says how long to wait (Retry-After, exhausted rate limits), all requests wait. What cannot pass (a refused key, an
unknown model, no credit) stops at once. The key is taken from OPENAI_API_KEY and is neither printed nor written.
"""

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import openai
from openai.types.chat import ChatCompletion

from vd.record import Progress
from vd.study import OPENAI, ServerSettings

REJECTED = (400, 413, 422)  # the request itself is at fault
HOPELESS = 5  # requests rejected, and none answered: no more are sent
LONGEST_PAUSE = 60.0  # seconds; a server's own Retry-After may be longer


class ServerError(RuntimeError):
    """A server cannot be asked: which one, what it said, what to do. Answers so far are kept."""


class BudgetError(ServerError):
    """The next request could exceed the budget."""


class Rejected(Exception):
    """The server understood one request and will not answer it (400, 413, 422), such as one that is too long."""


class Spending:
    """Calls and dollars of a study, those of requests in flight at their upper bound, against its budget."""

    def __init__(self, settings: ServerSettings, spent: tuple[int, float], write: Callable[[float], None]):
        self.settings, self.write = settings, write
        self.calls, self.dollars = spent
        self.flying_calls, self.flying_dollars = 0, 0.0

    @classmethod
    def kept_in(cls, cache, study: str, settings: ServerSettings):
        """What a study has spent so far and spends from now on, written down in a vd.api_cache.Cache."""
        url, model = settings.base_url, settings.model
        return cls(settings, cache.spent(study), lambda cost: cache.spend(study, url, model, cost))

    def bound(self, request: dict) -> float:
        """Dollars that a request costs at most: a token is at least one byte of text."""
        tokens_in = len(json.dumps(request["messages"]).encode()) + 50  # the chat template adds some
        tokens_out = request.get("max_tokens") or request["max_completion_tokens"]
        return self.cost(tokens_in, tokens_out, 0.0)

    def cost(self, tokens_in: int | None, tokens_out: int | None, bound: float) -> float:
        """Dollars for that many tokens; the upper bound if the server does not count them."""
        if tokens_in is None or tokens_out is None:
            return bound
        return (tokens_in * self.settings.price_in + tokens_out * self.settings.price_out) / 1e6

    def fits(self, bound: float) -> bool:
        """Whether one more request stays within the budget, whatever those in flight will cost."""
        calls, dollars = self.settings.budget_calls, self.settings.budget_dollars
        return (calls is None or self.calls + self.flying_calls + 1 <= calls) and (
            dollars is None or self.dollars + self.flying_dollars + bound <= dollars
        )

    def exhausted(self) -> str:
        """What to say when the next request does not fit."""
        return (
            f"the budget is used up after {self.calls} calls and ${self.dollars:.4f}: raise budget_calls or "
            "budget_dollars and run again to go on; answers so far are kept"
        )

    def start(self, bound: float) -> None:
        """A request leaves."""
        self.flying_calls += 1
        self.flying_dollars += bound

    def end(self, bound: float, cost: float | None) -> None:
        """A request is over; None if the server did not charge for it."""
        self.flying_calls -= 1
        self.flying_dollars -= bound
        if cost is not None:
            self.calls += 1
            self.dollars += cost
            self.write(cost)


def ask(
    requests: dict[str, dict],
    settings: ServerSettings,
    keep: Callable[[str, dict], None],
    spending: Spending,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Send requests (chat completion bodies by key) and hand every answer to `keep` the moment it arrives.

    An answer is a dict with content, refusal, finish_reason, tokens ([[token, logprob], ...] of the first position, or
    None), model, tokens_in and tokens_out. Returns what the server rejected: key to reason. Raises ServerError when the
    server cannot be asked or keeps failing, BudgetError when the budget is used up; both after all requests in flight
    have come back.
    """
    session = _Session(settings, keep, spending, progress)
    with ThreadPoolExecutor(1) as thread:  # a notebook's own thread runs an event loop already
        thread.submit(asyncio.run, session.run(requests)).result()
    return session.rejected


def ask_once(request: dict, settings: ServerSettings, spending: Spending) -> dict:
    """The answer to one request, with the same repetitions; raises Rejected too."""
    kept = {}
    rejected = ask({"": request}, settings, kept.__setitem__, spending)
    if rejected:
        raise Rejected(rejected[""])
    return kept[""]


def api_key(settings: ServerSettings) -> str:
    """The key from the environment; servers other than OpenAI's may need none."""
    found = os.environ.get("OPENAI_API_KEY")
    if not found and settings.base_url == OPENAI:
        raise ServerError(f"{OPENAI}: set the environment variable OPENAI_API_KEY, or base_url to another server")
    return found or "none"  # the client insists on one


def explain(error: Exception, settings: ServerSettings) -> str:
    """What is wrong and what to do, in one line without the key."""
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APITimeoutError):
        why = f"no answer within {settings.timeout:g} s; raise timeout or lower max_in_flight"
    elif isinstance(error, openai.APIConnectionError):
        why = "nobody answers; start the server or correct base_url"
    elif status in (401, 403):  # what the server says is left out: it may quote part of the key
        why = f"key refused ({status}); set OPENAI_API_KEY to a key of this server that may use {settings.model}"
    elif status == 404:
        why = f"no model '{settings.model}' there (404); correct model, or base_url, which mostly ends in /v1"
    elif status == 429:
        why = "too many requests or no credit left (429); lower max_in_flight, wait or pay"
    else:
        why = f"{status or 'no chat completion'}: {_said(error)}"
    return f"{settings.base_url}: {why}; answers so far are kept, run again to go on"


class _Session:
    """One call of `ask`: workers that share a queue, a pause that holds for all, and the first fatal error."""

    def __init__(self, settings, keep, spending, progress):
        self.settings, self.keep, self.spending, self.progress = settings, keep, spending, progress
        self.done, self.started = 0, time.monotonic()
        self.rejected, self.answered, self.error, self.until = {}, False, None, 0.0
        self.first_dollars = spending.dollars
        self.key = api_key(settings)

    async def run(self, requests: dict[str, dict]) -> None:
        queue = iter(requests.items())
        self.settled = asyncio.Condition()
        url, timeout = self.settings.base_url, self.settings.timeout
        async with openai.AsyncOpenAI(api_key=self.key, base_url=url, timeout=timeout, max_retries=0) as client:
            workers = min(self.settings.max_in_flight, len(requests))
            await asyncio.gather(*(self._work(client, queue) for _ in range(workers)))
        if self.error:
            raise self.error

    async def _work(self, client, queue) -> None:
        for name, request in queue:
            if self.error:
                return
            try:
                answer = await self._answer(client, request)
                if answer is None:
                    return
                self.answered = True
                self.keep(name, answer)
            except Rejected as error:
                self.rejected[name] = str(error)
                if len(self.rejected) == HOPELESS and not self.answered:
                    self.error = self.error or ServerError(f"{self.settings.base_url}: rejects everything: {error}")
            except Exception as error:  # the others stop too, once their requests in flight are back
                self.error = self.error or error
                return
            self.done += 1
            if self.progress:
                rate = self.done / (time.monotonic() - self.started)
                self.progress(self.done, f"{rate:.1f}/s  ${self.spending.dollars - self.first_dollars:.2f} so far")

    async def _answer(self, client, request: dict) -> dict | None:
        """Send until there is an answer; None if meanwhile another worker met a fatal error."""
        for attempt in range(self.settings.retries + 1):
            await self._pause()
            bound = await self._reserve(request)
            cost = None
            try:
                if self.error:
                    return None
                raw = await client.chat.completions.with_raw_response.create(**request)
                self._heed(raw.headers)
                completion = raw.parse()
                if isinstance(completion, str):
                    raise ServerError(f"{self.settings.base_url}: no chat completion; base_url mostly ends in /v1")
                answer = read(completion)
                cost = self.spending.cost(answer["tokens_in"], answer["tokens_out"], bound)
                return answer
            except openai.APIStatusError as error:
                if error.status_code in REJECTED:
                    raise Rejected(f"{error.status_code}: {_said(error)}") from None
                if not _may_pass(error) or attempt == self.settings.retries:
                    raise ServerError(explain(error, self.settings)) from None
                wait = _retry_after(error.response.headers)
                if wait is not None:
                    self._hold(wait)
                else:
                    await self._back_off(attempt)
            except (openai.APIConnectionError, openai.APIResponseValidationError, ValueError) as error:
                # a time-out or a broken reply may have been charged for
                cost = None if _unsent(error) else bound
                if attempt == self.settings.retries:
                    raise ServerError(explain(error, self.settings)) from None
                await self._back_off(attempt)
            finally:
                async with self.settled:
                    self.spending.end(bound, cost)
                    self.settled.notify_all()

    async def _reserve(self, request: dict) -> float:
        """Put aside what a request may cost; waits for others to come back if only that makes room."""
        bound = self.spending.bound(request)
        async with self.settled:
            await self.settled.wait_for(lambda: self.spending.fits(bound) or not self.spending.flying_calls)
            if not self.spending.fits(bound):
                raise BudgetError(self.spending.exhausted())
            self.spending.start(bound)
        return bound

    async def _pause(self) -> None:
        while not self.error and (left := self.until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 1.0))

    async def _back_off(self, attempt: int) -> None:
        await asyncio.sleep(min(LONGEST_PAUSE, 0.5 * 2**attempt) * random.uniform(0.5, 1))

    def _hold(self, seconds: float) -> None:
        # jitter, so that the workers do not all come back in the same instant
        self.until = max(self.until, time.monotonic() + seconds * random.uniform(1, 1.1))

    def _heed(self, headers) -> None:
        """Wait for a rate limit's renewal rather than run into it."""
        for what in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{what}") == "0":
                self._hold(_seconds(headers.get(f"x-ratelimit-reset-{what}", "")))


def read(completion: ChatCompletion) -> dict:
    """An answer (see `ask`) from a chat completion; ValueError if there is none in it."""
    if not completion.choices or not completion.choices[0].message:
        raise ValueError("a chat completion without choices")
    choice, usage = completion.choices[0], completion.usage
    content = choice.message.content or ""
    positions = choice.logprobs.content if choice.logprobs else None
    tokens = [[t.token, t.logprob] for t in positions[0].top_logprobs] if positions else None
    return {
        "content": content,
        "refusal": choice.message.refusal,
        "finish_reason": choice.finish_reason,
        "tokens": tokens,
        "model": completion.model,
        "tokens_in": usage.prompt_tokens if usage else None,
        "tokens_out": usage.completion_tokens if usage else None,
    }


def _said(error: Exception) -> str:
    """An error in one line without the key, which a server may quote."""
    return " ".join(str(error).split())[:300].replace(os.environ.get("OPENAI_API_KEY") or "\n", "***")


def _may_pass(error: openai.APIStatusError) -> bool:
    status = error.status_code
    return (status in (408, 409, 425, 429) or status >= 500) and error.code != "insufficient_quota"


def _unsent(error: Exception) -> bool:
    """Whether a request surely never reached the server."""
    return isinstance(error, openai.APIConnectionError) and type(error.__cause__).__name__ == "ConnectError"


def _retry_after(headers) -> float | None:
    """Seconds that the server asks to wait, given as milliseconds, seconds or a date; None if it does not say."""
    if milliseconds := headers.get("retry-after-ms"):
        return float(milliseconds) / 1000
    said = headers.get("retry-after", "")
    try:
        return max(float(said), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _seconds(duration: str) -> float:
    """Seconds of a duration such as 6m0s, 1.5s or 20ms; 1 if it is written otherwise."""
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", duration)
    return sum(float(n) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for n, unit in parts) if parts else 1.0
