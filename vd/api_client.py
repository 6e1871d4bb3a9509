"""Asking an OpenAI-compatible server many things at once: nothing lost, nothing beyond the budget, no hammering.

Requests are bodies of chat completions. A bounded number is in flight, each for `timeout` seconds at most, from sending
it to the last byte of its answer. Failures that may pass (408, 409, 425, 429, 5xx, lost connections, time-outs, broken
or empty replies) are repeated after exponential pauses with jitter; where a server says how long to wait (Retry-After,
exhausted rate limits), all requests wait. What cannot pass (a refused key, an unknown model, no credit) stops at once,
and so does an interruption: what has not left by then never leaves.
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

from vd import api_key, api_pace
from vd.api_budget import BudgetError, Spending
from vd.api_response import PROXIES, ServerError, Trouble, digest, read_answer, stranger, unconnected
from vd.record import Progress
from vd.study import ServerSettings

HOPELESS = 5  # requests rejected, and none answered: no more are sent
LONGEST_PAUSE = 60.0  # seconds; a server's own Retry-After may be longer
GRACE = 10.0  # seconds that requests in flight get to come back in after an interruption
MOST_IN_FLIGHT = 1000  # the client makes no more connections


class RejectsAll(ServerError):
    """The server rejects every request."""


class Rejected(Exception):
    """The server understood one request and will not answer it (400, 413, 422), such as one that is too long."""


def ask(
    requests: dict[str, dict],
    settings: ServerSettings,
    keep: Callable[[str, dict], None],
    spending: Spending,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Send requests (chat completion bodies by key) and hand every answer to `keep` the moment it arrives.

    Answers are as `vd.answers` says. Returns what has no answer, key to reason: what the server rejected, and what it
    failed at again and again while it answered others. Raises ServerError when the server cannot be asked, keeps
    failing, or answers as another model, BudgetError when the budget is used up; both after all requests in flight have
    come back. After an interruption (Ctrl-C, a notebook's stop button) these have GRACE seconds to do so.
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


def call(settings: ServerSettings, send: Callable, read: Callable[[bytes], object], times: float = 1.0):
    """What `read` makes of the body that the coroutine function `send` gets from a client, with the same repetitions.

    `times` stretches the time limit, for large files. Raises ServerError, and Rejected as the server says so.
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
    """A connection to a server: requests that are repeated, pauses that hold for all, and an end that comes at once."""

    def __init__(self, settings: ServerSettings):
        if fault := api_key.fault(settings.base_url):
            raise ServerError(f"{api_key.blank(settings.base_url)}: {fault}")
        self.settings, self.until = settings, 0.0
        self.error, self.interrupted, self.loop = None, False, None

    def run(self, work: Callable[[], Awaitable]):
        """The result of a coroutine function, run in a thread of its own: a notebook's has an event loop already."""
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
                self.interrupted = True  # before anything is scheduled, so that nothing leaves meanwhile
                with contextlib.suppress(AttributeError, RuntimeError):  # it has not begun, or is over
                    self.loop.call_soon_threadsafe(self._interrupt)
                thread.join(GRACE + 1)
            raise

    def connect(self) -> openai.AsyncOpenAI:
        """A client of the server, as an asynchronous context manager."""
        url, http = self.settings.base_url, None
        # a redirect would hand the texts on to somebody else, and no proxy can reach the servers
        # of this machine; without the environment's proxies its certificates need a word
        how = {"follow_redirects": False}
        if api_key.is_here(url):
            how |= {"trust_env": False, "verify": ssl.create_default_context()}
        with contextlib.suppress(Exception):  # not shown: a proxy's address may hold a password
            http = openai.DefaultAsyncHttpxClient(**how)
        if http is None:
            raise ServerError(f"{url}: {PROXIES} or SSL_CERT_FILE cannot be used; unset or correct it")
        # connecting takes a little less than everything, so that what never left is told from what
        # was not answered
        limit = openai.Timeout(None, connect=0.9 * self.settings.timeout)
        self.client = openai.AsyncOpenAI(
            api_key=api_key.for_server(url),
            base_url=url,
            timeout=limit,
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
        """What an attempt gives, or its last Trouble; one whose trouble may pass is made again after a pause."""
        for number in range(self.settings.retries + 1):
            await self._wait(lambda: self.until - time.monotonic())
            outcome = await attempt() if self.goes_on() else None
            if not isinstance(outcome, Trouble) or not outcome.passes or number == self.settings.retries:
                return outcome
            if outcome.wait:
                self.hold(outcome.wait)
            else:
                end = time.monotonic() + min(LONGEST_PAUSE, 0.5 * 2**number) * random.uniform(0.5, 1)
                await self._wait(lambda end=end: end - time.monotonic())

    async def attempt(self, send: Callable, read: Callable[[bytes], object], times: float = 1.0):
        """What `read` makes of a response, or the Trouble with it; not raised, so that no error carries another."""
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
        self.hold(api_pace.until_renewal(response.headers))
        return digest(response.status_code, response.headers, response.content, self.settings, read)

    def hold(self, seconds: float) -> None:
        """Let all requests wait, with jitter, so that they do not all come back in the same instant."""
        self.until = max(self.until, time.monotonic() + seconds * random.uniform(1, 1.1))

    async def _wait(self, left: Callable[[], float]) -> None:
        """Sleep while time is left, but not beyond the end of all."""
        while self.goes_on() and (seconds := left()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), min(seconds, 1.0))

    def _interrupt(self) -> None:
        self.interrupted = True
        self.stop(ServerError(f"{self.settings.base_url}: interrupted; answers so far are kept, run again to go on"))


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
            await asyncio.wait([asyncio.gather(*working), ending], return_when=asyncio.FIRST_COMPLETED)
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
                self.done += 1
                if self.progress:
                    rate = self.done / (time.monotonic() - self.started)
                    self.progress(self.done, f"{rate:.1f}/s  ${self.spending.dollars - self.first_dollars:.2f} so far")
            except Exception as error:  # the others stop too, once their requests in flight are back
                self.stop(error)

    def _settle(self, name: str, outcome: dict | Trouble) -> None:
        """Keep an answer, or note why there is none and whether that is the end."""
        if not isinstance(outcome, Trouble):
            self.answered, self.unsure = True, False
            self.keep(name, outcome)
        elif outcome.rejected:
            self.rejected[name] = outcome.why
            if len(self.rejected) == HOPELESS and not self.answered:
                self.stop(RejectsAll(f"{self.settings.base_url}: rejects everything: {outcome.why}"))
        elif outcome.alone and not self.unsure:  # this request is at fault, or the server: the next one shows
            self.failed[name], self.unsure = outcome, True
        else:
            self.stop(outcome.error(self.settings))

    async def _paid(self, request: dict) -> dict | Trouble | None:
        """One attempt within the budget; None if there was an error meanwhile."""
        bound = self.spending.bound(request)
        async with self.settled:
            await self.settled.wait_for(lambda: self.spending.fits(bound) or not self.spending.flying_calls)
            if not self.goes_on():
                return None
            if not self.spending.fits(bound):
                raise BudgetError(self.spending.exhausted())
            self.spending.start(bound)
        cost = bound  # of a request that is given up
        try:
            outcome = await self.attempt(lambda c: c.chat.completions.with_raw_response.create(**request), read_answer)
            if isinstance(outcome, Trouble):
                cost = bound if outcome.charged else None
            else:
                cost = self.spending.cost(outcome["tokens_in"], outcome["tokens_out"], bound)
                outcome = stranger(outcome, self.settings) or outcome
            return outcome
        finally:
            try:
                self.spending.end(bound, cost)
            finally:
                async with self.settled:
                    self.settled.notify_all()
