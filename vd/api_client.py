"""Asking an OpenAI-compatible server many things at once: nothing lost, nothing beyond the budget, no hammering.

Requests are bodies of chat completions. A bounded number is in flight, each for `timeout` seconds at most, from sending
it to the last byte of its answer. Failures that may pass (408, 409, 425, 429, 5xx, lost connections, time-outs, broken
or empty replies) are repeated after exponential pauses with jitter; where a server says how long to wait (Retry-After,
exhausted rate limits), all requests wait. What cannot pass (a refused key, an unknown model, no credit) stops at once,
and so does an interruption: what has not left by then never leaves.
"""

import asyncio
import contextlib
import json
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import urlsplit

import openai

from vd import answers, api_key, api_pace
from vd.record import Progress
from vd.study import ServerSettings

REJECTED = (400, 413, 422)  # the request itself is at fault
HOPELESS = 5  # requests rejected, and none answered: no more are sent
LONGEST_PAUSE = 60.0  # seconds; a server's own Retry-After may be longer
GRACE = 10.0  # seconds that requests in flight get to come back in after an interruption
MOST_IN_FLIGHT = 1000  # the client makes no more connections
LONGEST_TEXT = 300  # characters of what a server says that are passed on


class ServerError(RuntimeError):
    """A server cannot be asked: which one, what it said, what to do. Answers so far are kept."""


class BudgetError(ServerError):
    """The next request could exceed the budget."""


class NotFound(ServerError):
    """What was asked for is not there (404): a model, a file, or the way to it."""


class RejectsAll(ServerError):
    """The server rejects every request."""


class Rejected(Exception):
    """The server understood one request and will not answer it (400, 413, 422), such as one that is too long."""


@dataclass(frozen=True)
class Trouble:
    """Why a request has no answer: in a few words without the key, and what that means for it and for others."""

    why: str
    passes: bool = False  # it may help to send it again
    rejected: bool = False  # only this request is at fault
    alone: bool = False  # maybe only this request is at fault; the next one will show
    charged: bool = False  # the server may have done the work
    missing: bool = False  # what it asks for is not there (404)
    wait: float = 0.0  # seconds that the server asks to wait

    def error(self, settings: ServerSettings) -> ServerError:
        """The same as an error that names the server."""
        kind = NotFound if self.missing else ServerError
        return kind(f"{settings.base_url}: {self.why}; answers so far are kept, run again to go on")


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
        # no proxy can reach the servers of this machine, and a redirect would hand the texts on to somebody else
        how = {"trust_env": not api_key.is_here(url), "follow_redirects": False}
        with contextlib.suppress(Exception):  # what they say is not shown, a proxy's address may hold a password
            http = openai.DefaultAsyncHttpxClient(**how)
        if http is None:
            why = "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY or SSL_CERT_FILE cannot be used; unset or correct it"
            raise ServerError(f"{url}: {why}")
        # connecting takes a little less than everything, so that what never left is told from what was not answered
        limit = openai.Timeout(None, connect=0.9 * self.settings.timeout)
        key = api_key.for_server(url)
        self.client = openai.AsyncOpenAI(api_key=key, base_url=url, timeout=limit, max_retries=0, http_client=http)
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
            return _unconnected(error)
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


def read_answer(body) -> dict:
    """The answer (see vd.answers) in a chat completion, bytes or parsed, without the key, should that be quoted in it."""
    answer = answers.read(answers.parse(body) if isinstance(body, bytes) else body)
    for name in ("content", "refusal", "finish_reason", "model"):
        answer[name] = answer[name] and api_key.blank(answer[name], api_key.LONG_PART)
    if answer["tokens"]:
        answer["tokens"] = [[api_key.blank(token, api_key.LONG_PART), p] for token, p in answer["tokens"]]
    return answer


def stranger(answer: dict, settings: ServerSettings) -> Trouble | None:
    """The Trouble with an answer that another model gave than the one that was asked for."""
    asked, answered = settings.model, answer["model"]
    if answers.is_from(answered, asked, settings.answers_as):
        return None
    answered = " ".join(answered.split())[:LONGEST_TEXT]
    return Trouble(
        f"asked for the model {asked}, but {answered} answered: write model: {answered}, or, if that is the name "
        f"under which it answers, add answers_as: {answered}"
    )


def digest(status: int, headers, body: bytes, settings: ServerSettings, read: Callable[[bytes], object]):
    """What `read` makes of a response, or the Trouble with it."""
    if 200 <= status < 300:
        if body.lstrip()[:1] == b"<":
            return Trouble("a web page, no chat completion; base_url mostly ends in /v1")
        try:
            return read(body)
        except answers.Unreadable as error:
            if not error.status:
                return Trouble(f"a broken answer: {shorten(str(error))}", passes=True, alone=True, charged=True)
            status = error.status  # in the body of a success
    said = f"{status}: {shorten(answers.error_text(body)) or 'it does not say why'}"
    if status in REJECTED:
        return Trouble(said, rejected=True)
    wait = api_pace.wanted(headers) or 0.0
    if wait > api_pace.LONGEST_WAIT:
        return Trouble(f"asks to be left alone ({status}); come back after {api_pace.moment(wait)}")
    why = _hopeless(status, headers, body, settings)
    if why:
        return Trouble(why, missing=status == 404)
    passes = status in (408, 409, 425, 429) or status >= 500
    why = "too many requests or no credit left (429); lower max_in_flight, wait or pay" if status == 429 else said
    return Trouble(why, passes=passes, alone=status == 500, wait=wait)


def shorten(text: str) -> str:
    """What a server said, in one short line without the key, blanked before it is cut."""
    return " ".join(api_key.blank(" ".join(text.split())).split())[:LONGEST_TEXT]


def _hopeless(status: int, headers, body: bytes, settings: ServerSettings) -> str | None:
    """Why nothing will be answered, and what to do; what the server says is left out, it may quote part of the key."""
    if status < 400:
        place = urlsplit(headers.get("location", ""))
        to = shorten(f"{place.scheme}://{place.hostname}{place.path}" if place.hostname else place.path)
        return f"redirects ({status}) to {to or 'nowhere'}; write the address of the server itself as base_url"
    if status in (401, 403):
        sent = "" if api_key.may_have_it(settings.base_url) else "; none was sent, since http to another machine is open"
        return (
            f"key refused ({status}); set OPENAI_API_KEY to a key of this server that may use {settings.model}{sent}"
        )
    if status == 402 or (status == 429 and b"insufficient_quota" in body):
        return f"no credit left ({status}); pay, or ask another server"
    if status == 404:
        return f"no model '{settings.model}' there (404); correct model, or base_url, which mostly ends in /v1"
    return None


def _unconnected(error: openai.APIConnectionError) -> Trouble:
    """The Trouble with a connection that could not be made, or broke."""
    chain, cause = [], error
    while cause and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    kinds, words = {type(e).__name__ for e in chain}, " ".join(map(str, chain))
    if "CERTIFICATE" in words:
        return Trouble("its certificate is not trusted; set SSL_CERT_FILE to that of who signed it")
    if "ProxyError" in kinds:
        return Trouble("the proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY does not let it through", passes=True)
    unsent = bool(kinds & {"ConnectError", "ConnectTimeout"})
    why = "nobody answers" if unsent else "the connection broke"
    return Trouble(f"{why}; start the server or correct base_url", passes=True, charged=not unsent)
