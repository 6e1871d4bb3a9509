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
import math
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import openai

from vd.servers import pace, secret
from vd.servers.budget import BudgetError, Spending
from vd.servers.response import (
    PROXIES,
    ServerError,
    Trouble,
    digest,
    read_answer,
    stranger,
    unconnected,
)
from vd.servers.secret import key_fault
from vd.store.progress import Progress
from vd.study.servers import ServerSettings

HOPELESS = 5  # requests rejected, and none answered: no more are sent
LONGEST_PAUSE = 60.0  # seconds; a server's own Retry-After may be longer
GRACE = 10.0  # seconds that requests in flight get to come back in after an interruption
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

    Answers are as `vd.answers` says. Returns what has no answer, key to reason: what the server
    rejected, and what it failed at again and again while it answered others. Raises ServerError
    when the server cannot be asked, keeps failing, or answers as another model, BudgetError when
    the budget is used up; both after all requests in flight have come back. After an interruption
    (Ctrl-C, a notebook's stop button) these have GRACE seconds to do so.
    """
    session = _Session(settings, keep, spending, progress)
    session.run(lambda: session.send_all(requests))
    return session.rejected | {name: trouble.why for name, trouble in session.failed.items()}


def ask_once(request: dict, settings: ServerSettings, spending: Spending) -> dict:
    """The answer to one request, with the same repetitions; raises Rejected too."""
    kept = {}
    session = _Session(settings, kept.__setitem__, spending, None)
    session.run(lambda: session.send_all({"": request}))
    for reason in session.rejected.values():
        raise Rejected(reason)
    for trouble in session.failed.values():
        raise trouble.error(settings)
    return kept[""]


def call(settings: ServerSettings, send: Callable, read: Callable, times: float = 1.0):
    """What `read` makes of the body that the coroutine function `send` gets from a client.

    With the same repetitions; `times` stretches the time limit, for large files. Raises
    ServerError, and Rejected as the server says so.
    """
    server = Server(settings)

    async def work():
        async with server.connect():
            return await server.persist(lambda: server.attempt(send, read, times))

    outcome = server.run(work)
    if isinstance(outcome, Trouble):
        raise Rejected(outcome.why) if outcome.rejected else outcome.error(settings)
    return outcome


class Server:
    """A connection to a server: repetitions, pauses that hold for all, an end that is at once."""

    def __init__(self, settings: ServerSettings):
        if fault := key_fault(settings.base_url):
            raise ServerError(f"{secret.blank(settings.base_url)}: {fault}")
        self.settings, self.url, self.until = settings, settings.base_url, 0.0
        self.error, self.interrupted, self.loop = None, False, None

    def run(self, work: Callable[[], Awaitable]):
        """The result of a coroutine function, in a thread of its own: a notebook's has a loop."""
        result = Future()

        async def watched():
            self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
            found = await work()
            if self.error:
                raise self.error
            return found

        def fulfil():
            try:
                result.set_result(asyncio.run(watched()))
            except BaseException as error:
                result.set_exception(error)

        thread = threading.Thread(target=fulfil, daemon=True)
        try:
            thread.start()
            return result.result()
        except BaseException:
            if not result.done():
                self.interrupted = True  # before anything is scheduled: nothing leaves meanwhile
                with contextlib.suppress(AttributeError, RuntimeError):  # not begun, or over
                    self.loop.call_soon_threadsafe(self._interrupt)
                thread.join(GRACE + 1)
            raise

    def connect(self) -> openai.AsyncOpenAI:
        """A client of the server, as an asynchronous context manager."""
        http, how = None, {"follow_redirects": False}  # these would hand the texts on to others
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
            default_headers={
                "Authorization": f"Bearer {key}"
            },  # in place of OPENAI_CUSTOM_HEADERS'
            base_url=self.url,
            timeout=openai.Timeout(None, connect=CONNECTING * self.settings.timeout),
            max_retries=0,
            http_client=http,
        )
        return self.client

    def stop(self, error: Exception) -> None:
        """Let nothing leave from now on; the first error is the one that is raised."""
        self.error = self.error or error
        self.stopped.set()

    def goes_on(self) -> bool:
        """Whether anything may leave: not after an error, nor when whoever wanted it is gone."""
        if self.interrupted or not threading.main_thread().is_alive():
            self._interrupt()
        return not self.error

    async def persist(self, attempt: Callable[[], Awaitable]):
        """What an attempt gives, made again while its Trouble may pass; None if all is stopped."""
        retries = self.settings.retries
        for number in range(retries + 1):
            await self._wait(lambda: self.until - time.monotonic())
            outcome = await attempt() if self.goes_on() else None
            if not isinstance(outcome, Trouble) or not outcome.passes or number == retries:
                return outcome
            if outcome.wait:
                self.hold(outcome.wait)
            else:
                pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(number, 20)) * random.uniform(0.5, 1)
                end = time.monotonic() + pause
                await self._wait(lambda end=end: end - time.monotonic())

    async def attempt(self, send: Callable, read: Callable, times: float = 1.0):
        """What `read` makes of a response, or Trouble; not raised, so no error carries another."""
        limit = self.settings.timeout * times
        try:
            async with asyncio.timeout(limit):
                response = (await send(self.client)).http_response
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            return unconnected(error, self.settings)
        except TimeoutError:
            why = f"no answer within {limit:g} s; raise timeout or lower max_in_flight"
            return Trouble(why, passes=True, charged=True)
        except UnicodeEncodeError:
            return Trouble("it holds characters that cannot be sent", rejected=True)
        status, headers = response.status_code, response.headers
        self.hold(pace.until_renewal(headers))
        return digest(status, headers, response.content, self.settings, read)

    def hold(self, seconds: float) -> None:
        """Let all requests wait, with jitter, so that they do not all come back in one instant."""
        self.until = max(self.until, time.monotonic() + seconds * random.uniform(1, 1.1))

    async def _wait(self, left: Callable[[], float]) -> None:
        """Sleep while time is left, but not beyond the end of all."""
        while self.goes_on() and (seconds := left()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), min(seconds, 1.0))

    def _interrupt(self) -> None:
        self.interrupted = True
        self.stop(Trouble("interrupted").error(self.settings))


class _Session(Server):
    """One call of `ask`: workers that share a queue, and what came of it."""

    def __init__(self, settings, keep, spending, progress):
        super().__init__(settings)
        self.keep, self.spending, self.progress = keep, spending, progress
        self.done, self.started, self.first_dollars = 0, time.monotonic(), spending.dollars
        self.rejected, self.failed, self.answered, self.unsure = {}, {}, False, False

    async def send_all(self, requests: dict[str, dict]) -> None:
        """Send all and wait for them; after an interruption, for GRACE seconds."""
        queue = iter(requests.items())
        self.settled = asyncio.Condition()
        async with self.connect():
            count = min(self.settings.max_in_flight, len(requests), MOST_IN_FLIGHT)
            working = [asyncio.create_task(self._work(queue)) for _ in range(count)]
            ending = asyncio.create_task(self._interruption())
            both = [asyncio.gather(*working), ending]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in (ending, *working):
                task.cancel()
            await asyncio.gather(ending, *working, return_exceptions=True)

    async def _interruption(self) -> None:
        """Return when an interruption's time is over."""
        await self.stopped.wait()
        await asyncio.sleep(GRACE if self.interrupted else math.inf)

    async def _work(self, queue) -> None:
        for name, request in queue:
            try:
                outcome = await self.persist(lambda request=request: self._paid(request))
                if outcome is None:
                    return
                self._settle(name, outcome)
                self._report()
            except Exception as error:  # the others stop too, once those in flight are back
                self.stop(error)

    def _settle(self, name: str, outcome: dict | Trouble) -> None:
        """Keep an answer, or note why there is none and whether that is the end."""
        if not isinstance(outcome, Trouble):
            self.answered, self.unsure = True, False
            self.keep(name, outcome)
        elif outcome.rejected:
            self.rejected[name] = outcome.why
            if len(self.rejected) == HOPELESS and not self.answered:
                self.stop(RejectsAll(f"{self.url}: rejects everything: {outcome.why}"))
        elif outcome.alone and not self.unsure:  # this request or the server: the next one shows
            self.failed[name], self.unsure = outcome, True
        else:
            self.stop(outcome.error(self.settings))

    def _report(self) -> None:
        self.done += 1
        if self.progress:
            rate = self.done / (time.monotonic() - self.started)
            dollars = self.spending.dollars - self.first_dollars
            self.progress(self.done, f"{rate:.1f}/s  ${dollars:.2f} so far")

    async def _paid(self, request: dict) -> dict | Trouble | None:
        """One attempt within the budget; None if there was an error meanwhile."""
        spending, bound = self.spending, self.spending.bound(request)
        async with self.settled:
            await self.settled.wait_for(lambda: spending.fits(bound) or not spending.flying_calls)
            if not self.goes_on():
                return None
            if not spending.fits(bound):
                raise BudgetError(spending.exhausted())
            spending.start(bound)
        cost = bound  # of a request that is given up
        try:
            outcome = await self.attempt(lambda c: _complete(c, request), read_answer)
            if isinstance(outcome, Trouble):
                cost = bound if outcome.charged else None
            else:
                cost = spending.cost(outcome["tokens_in"], outcome["tokens_out"], bound)
                outcome = stranger(outcome, self.settings) or outcome
            return outcome
        finally:
            try:
                spending.end(bound, cost)
            finally:
                async with self.settled:
                    self.settled.notify_all()


def _complete(client: openai.AsyncOpenAI, request: dict) -> Awaitable:
    return client.chat.completions.with_raw_response.create(**request)
