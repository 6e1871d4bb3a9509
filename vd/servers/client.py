"""Asking an OpenAI-compatible server many things at once: nothing lost, nothing beyond the budget.

Requests are bodies of chat completions. A bounded number is in flight, each for `timeout` seconds
at most, from sending it to the last byte of its answer. Failures that may pass (408, 409, 425, 429,
5xx, lost connections, time-outs, broken or empty replies) are repeated after exponential pauses
with jitter; where a server says how long to wait (Retry-After, exhausted rate limits), all requests
wait. What cannot pass (a refused key, an unknown model, no credit) stops at once, and so does an
interruption: what has not left by then never leaves.
"""

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Awaitable, Callable

import openai

from vd.servers import pace, secret
from vd.servers.budget import BudgetError, Spending
from vd.servers.interruption import Interruptible
from vd.servers.response import (
    PROXIES,
    Failure,
    ServerError,
    connection_failure,
    interpret,
    other_model,
    read_answer,
)
from vd.servers.secret import key_fault
from vd.store.progress import Progress
from vd.study.servers import ServerSettings

MAX_REJECTED = 5  # requests rejected, and none answered: no more are sent
LONGEST_PAUSE = 60.0  # seconds; a server's own Retry-After may be longer
MOST_IN_FLIGHT = 1000  # the client makes no more connections
CONNECTING = 0.9  # of the time limit: what never left is told from what was not answered


class RejectsAll(ServerError):
    """The server rejects every request."""


class Rejected(Exception):
    """The server understood one request and will not answer it, such as one that is too long."""


def ask(
    requests: dict[str, dict],
    settings: ServerSettings,
    keep: Callable[[str, dict], None],
    spending: Spending,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Send requests (chat completion bodies by key) and hand every answer to `keep` as it arrives.

    Answers are as `vd.servers.answers` says. Returns what has no answer, key to reason: what the
    server rejected, and what it failed at again and again while it answered others. Raises
    ServerError when the server cannot be asked, keeps failing, or answers as another model,
    BudgetError when the budget is used up; both after all requests in flight have come back. After
    an interruption (Ctrl-C, a notebook's stop button) these have `interruption.GRACE` seconds to
    do so.
    """
    session = _Session(settings, keep, spending, progress)
    session.run(lambda: session.send_all(requests))
    return session.rejected | {name: failure.why for name, failure in session.failed.items()}


def ask_once(request: dict, settings: ServerSettings, spending: Spending) -> dict:
    """The answer to one request, with the same repetitions; raises Rejected too."""
    kept = {}
    session = _Session(settings, kept.__setitem__, spending, None)
    session.run(lambda: session.send_all({"": request}))
    # one request at most, so each loop raises for it or does nothing
    for reason in session.rejected.values():
        raise Rejected(reason)
    for failure in session.failed.values():
        raise failure.error(settings)
    return kept[""]


def call(settings: ServerSettings, send: Callable, read: Callable, times: float = 1.0):
    """What `read` makes of the body that the coroutine function `send` gets from a client.

    With the same repetitions; `times` stretches the time limit, for large files. Raises
    ServerError, and Rejected as the server says so.
    """
    server = Server(settings)

    async def work():
        async with server.connect():
            return await server.with_retries(lambda: server.attempt(send, read, times))

    outcome = server.run(work)
    if isinstance(outcome, Failure):
        raise Rejected(outcome.why) if outcome.rejected else outcome.error(settings)
    return outcome


class Server(Interruptible):
    """A connection to a server: repetitions, and pauses that all requests make."""

    def __init__(self, settings: ServerSettings):
        if fault := key_fault(settings.base_url):
            raise ServerError(f"{secret.blank(settings.base_url)}: {fault}")
        super().__init__(Failure("interrupted").error(settings))
        self.settings, self.url = settings, settings.base_url
        self.back_off_until = 0.0  # of time.monotonic(); nothing leaves before

    def connect(self) -> openai.AsyncOpenAI:
        """A client of the server, as an asynchronous context manager."""
        http, how = None, {"follow_redirects": False}  # these would hand the texts on to others
        # without trust_env neither proxies nor SSL_CERT_FILE count; ssl's context reads the latter
        if secret.is_here(self.url):  # no proxy can reach it, and certificates need a word then
            how |= {"trust_env": False, "verify": ssl.create_default_context()}
        with contextlib.suppress(Exception):  # not shown: a proxy's address may hold a password
            http = openai.DefaultAsyncHttpxClient(**how)
        if http is None:
            fault = f"{PROXIES} or SSL_CERT_FILE cannot be used; unset or correct it"
            raise ServerError(f"{self.url}: {fault}")
        key = secret.for_server(self.url)
        self.client = openai.AsyncOpenAI(
            api_key=key,
            # in place of OPENAI_CUSTOM_HEADERS'
            default_headers={"Authorization": f"Bearer {key}"},
            base_url=self.url,
            # `attempt` limits the whole: by limits of single reads a server may dribble for ever
            timeout=openai.Timeout(None, connect=CONNECTING * self.settings.timeout),
            max_retries=0,  # the client's own would know nothing of the budget
            http_client=http,
        )
        return self.client

    async def with_retries(self, attempt: Callable[[], Awaitable]):
        """What an attempt gives, made again while its Failure may pass; None if all is stopped."""
        retries = self.settings.retries
        for number in range(retries + 1):
            await self.sleep(lambda: self.back_off_until - time.monotonic())
            # an error elsewhere, or an interruption, may have come during the pause
            outcome = await attempt() if self.goes_on() else None
            if not isinstance(outcome, Failure) or not outcome.retryable or number == retries:
                return outcome
            if outcome.retry_after:
                self.back_off(outcome.retry_after)
            else:
                # the exponent is bounded: retries may be so many that the power is no float
                pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(number, 20)) * random.uniform(0.5, 1)
                end = time.monotonic() + pause
                await self.sleep(lambda end=end: end - time.monotonic())

    async def attempt(self, send: Callable, read: Callable, times: float = 1.0):
        """What `read` makes of a response, or Failure; not raised, so no error carries another."""
        limit = self.settings.timeout * times
        try:
            async with asyncio.timeout(limit):
                # unparsed: openai's own parsing would trust the shape of whatever came
                response = (await send(self.client)).http_response
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            return connection_failure(error, self.settings)
        except TimeoutError:
            why = f"no answer within {limit:g} s; raise timeout or lower max_in_flight"
            return Failure(why, retryable=True, charged=True)
        except UnicodeEncodeError:
            return Failure("it holds characters that cannot be sent", rejected=True)
        # even a success may say that it was the last one for now
        status, headers = response.status_code, response.headers
        self.back_off(pace.until_renewal(headers))
        return interpret(status, headers, response.content, self.settings, read)

    def back_off(self, seconds: float) -> None:
        """Let all requests wait, with jitter, so that they do not all come back in one instant."""
        end = time.monotonic() + seconds * random.uniform(1, 1.1)
        self.back_off_until = max(self.back_off_until, end)


class _Session(Server):
    """One call of `ask`: workers that share a queue, and what came of it."""

    def __init__(self, settings, keep, spending, progress):
        super().__init__(settings)
        self.keep, self.spending, self.progress = keep, spending, progress
        self.done, self.started, self.first_dollars = 0, time.monotonic(), spending.dollars
        self.rejected, self.failed = {}, {}
        self.answered = False  # anything at all
        self.server_in_doubt = False  # the last failure may be one of the server, not of a request

    async def send_all(self, requests: dict[str, dict]) -> None:
        """Send all and wait for them; after an interruption, for its time of grace."""
        queue = iter(requests.items())
        self.settled = asyncio.Condition()
        async with self.connect():
            # workers instead of a task per request: a million requests would be a million tasks
            count = min(self.settings.max_in_flight, len(requests), MOST_IN_FLIGHT)
            working = [asyncio.create_task(self._work(queue)) for _ in range(count)]
            ending = asyncio.create_task(self.end_of_grace())
            both = [asyncio.gather(*working), ending]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            # what is not back by now is given up
            for task in (ending, *working):
                task.cancel()
            await asyncio.gather(ending, *working, return_exceptions=True)

    async def _work(self, queue) -> None:
        # one iterator for all workers: each takes the next request once it is free
        for name, request in queue:
            try:
                outcome = await self.with_retries(lambda request=request: self._paid(request))
                if outcome is None:
                    return
                self._settle(name, outcome)
                self._report()
            except Exception as error:  # the others stop too, once those in flight are back
                self.stop(error)

    def _settle(self, name: str, outcome: dict | Failure) -> None:
        """Keep an answer, or note why there is none and whether that is the end."""
        if not isinstance(outcome, Failure):
            self.answered, self.server_in_doubt = True, False
            self.keep(name, outcome)
        elif outcome.rejected:
            self.rejected[name] = outcome.why
            # one long prompt is rejected alone; if all of the first few are, the request is wrong
            if len(self.rejected) == MAX_REJECTED and not self.answered:
                self.stop(RejectsAll(f"{self.url}: rejects everything: {outcome.why}"))
        elif (
            outcome.isolated and not self.server_in_doubt
        ):  # this request or the server: the next one shows
            self.failed[name], self.server_in_doubt = outcome, True
        else:
            self.stop(outcome.error(self.settings))

    def _report(self) -> None:
        self.done += 1
        if self.progress:
            rate = self.done / (time.monotonic() - self.started)
            dollars = self.spending.dollars - self.first_dollars
            self.progress(self.done, f"{rate:.1f}/s  ${dollars:.2f} so far")

    async def _paid(self, request: dict) -> dict | Failure | None:
        """One attempt within the budget; None if there was an error meanwhile."""
        spending, bound = self.spending, self.spending.bound(request)
        async with self.settled:
            # what is in flight mostly costs less than its bound: near the end of the budget
            # requests wait for each other instead of giving up
            await self.settled.wait_for(
                # with nothing in flight no money can come back, and waiting would never end
                lambda: spending.fits(bound) or not spending.in_flight_calls
            )
            if not self.goes_on():
                return None
            if not spending.fits(bound):
                raise BudgetError(spending.exhausted())
            spending.start(bound)
        # a request that is cancelled may be charged all the same, so it counts as if it were
        cost = bound
        try:
            outcome = await self.attempt(lambda c: _complete(c, request), read_answer)
            if isinstance(outcome, Failure):
                cost = bound if outcome.charged else None
            else:
                cost = spending.cost(outcome["tokens_in"], outcome["tokens_out"], bound)
                # after its cost: another model's answer is paid for as well
                outcome = other_model(outcome, self.settings) or outcome
            return outcome
        finally:
            try:
                # writing it down may fail, and whoever waits must be woken all the same
                spending.end(bound, cost)
            finally:
                async with self.settled:
                    self.settled.notify_all()


def _complete(client: openai.AsyncOpenAI, request: dict) -> Awaitable:
    return client.chat.completions.with_raw_response.create(**request)
