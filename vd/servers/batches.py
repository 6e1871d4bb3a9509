"""The Batch API: files of requests that a server answers within a day, at half the price.

The server knows every batch, and the cache knows which were collected. So a process that is killed
or a machine that is switched off loses nothing: the next call takes up the batches that are under
way. What a batch left unanswered, because lines failed or it expired or was cancelled, is submitted
again.
"""

import io
import json
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial

from vd.servers import answers, batch_files
from vd.servers.batch_files import PAGE, identified, is_named, listing
from vd.servers.budget import BudgetError, Spending
from vd.servers.client import Rejected, call
from vd.servers.database import Cache
from vd.servers.response import REJECTED, NotFound, ServerError, other_model, read_answer, shorten
from vd.store.progress import Progress
from vd.study.servers import ServerSettings

PRICE = 0.5  # of the usual one
MOST_REQUESTS, MOST_BYTES = 50_000, 150_000_000  # of a batch and of its file
ROUNDS = 5  # how often what stayed unanswered is submitted
POLL = 30.0  # seconds
ENDPOINT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
FILES = 30  # times the time limit of a request, for a file that is sent or fetched
LONGEST = 26 * 3600.0  # seconds; the server promises a day


def ask(
    requests: dict[str, dict],
    settings: ServerSettings,
    keep: Callable[[str, dict], None],
    spending: Spending,
    progress: Progress | None,
    cache: Cache,
    purpose: str,
) -> dict[str, str]:
    """As `vd.servers.client.ask`, by batches; returns when all are answered, which may take a day.

    Batches carry `purpose` (model and prompt); earlier ones with the same are taken up first.
    """
    session = _Session(requests, settings, keep, spending, progress, cache, purpose)
    # before anything is submitted: what they answer is paid for
    under_way = session.take_up()
    # a round: submit what nobody is answering yet, wait for all that is under way, look again
    for _ in range(ROUNDS):
        in_flight = set().union(*under_way.values())
        waiting = {n: r for n, r in session.waiting().items() if n not in in_flight}
        submitted = session.submit(waiting)
        # what is under way is paid for and may cost less than its bound: it is waited for first
        if waiting and not submitted and not under_way:
            raise BudgetError(spending.exhausted())
        under_way |= submitted
        for batch, asked in under_way.items():
            session.collect(batch, asked)
        under_way = {}
        if not session.waiting():
            return session.rejected
    said = f"{len(session.waiting())} requests unanswered after {ROUNDS} batches"
    raise ServerError(f"{settings.base_url}: {said}; run again to go on")


class _Session:
    """One call of `ask`."""

    def __init__(self, requests, settings, keep, spending, progress, cache, purpose):
        self.requests, self.settings, self.keep, self.spending = requests, settings, keep, spending
        self.progress, self.cache = progress, cache
        # a value of metadata has 512 characters at most
        self.metadata = {"by": "value-drifts", "purpose": purpose[:512]}
        self.done, self.rejected = set(), {}

    def waiting(self) -> dict[str, dict]:
        """The requests that have no answer yet."""
        return {name: request for name, request in self.requests.items() if name not in self.done}

    def take_up(self) -> dict[str, dict[str, float]]:
        """Batches submitted before and not collected: id to what they were asked, as `_reserve`."""
        found = {}
        for batch in self._listed():
            metadata = batch.get("metadata")
            ours = isinstance(metadata, dict) and self.metadata.items() <= metadata.items()
            if ours and not self.cache.is_collected(batch["id"]):
                asked = self._asked(batch)
                if asked:
                    found[batch["id"]] = asked
                else:  # what it was asked is not known: its answers must be there before any other
                    self.collect(batch["id"], asked)
        return found

    def submit(self, requests: dict[str, dict]) -> dict[str, dict[str, float]]:
        """Submit as many as the budget allows, in as many batches as their size asks for."""
        batches, part, size = {}, {}, 0
        # some are submitted although not all fit: what they answer is kept for later
        affordable = self._affordable(requests)
        for name, request in affordable.items():
            # answers come in any order, each with its custom_id: the key under which it is kept
            line = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": request}
            # ASCII, so its characters are its bytes
            line = json.dumps(line)
            # limits of the Batch API, see its documentation: 50,000 requests, 200 MB
            if part and (len(part) == MOST_REQUESTS or size + len(line) > MOST_BYTES):
                batches |= self._create(part, affordable)
                part, size = {}, 0
            part[name], size = line, size + len(line) + 1
        return batches | (self._create(part, affordable) if part else {})

    def collect(self, batch_id: str, asked: dict[str, float]) -> None:
        """Wait until a batch has ended and keep what it answered."""
        batch = self._ended(batch_id)
        known, costs, lost = bool(asked), {}, []
        for kind in ("output_file_id", "error_file_id"):
            for name, response in batch_files.responses(self._file(batch.get(kind), lost)):
                # a file may name a request twice; it was charged once
                if name in costs and name in self.done:  # it is there twice
                    continue
                if not known and name in self.requests and name not in asked:
                    # its input file is gone: what was asked shows in what was answered
                    asked |= self._reserve({name: self.requests[name]})
                if name in asked:
                    costs[name] = self._read(name, response, asked[name])
        gone = batch.get("output_file_id") in lost
        # what has no line was not charged, unless the file of answers itself is gone
        for name, bound in asked.items():
            self.spending.end(bound, costs.get(name, bound if gone else None))
        # after all answers are kept: killed before, it is collected again and nothing is lost
        self.cache.collect(batch_id)
        if gone:
            why = "its answers are gone (404); run again to have it asked, and paid for, anew"
            raise self._error(f"batch {batch_id} failed: {why}")
        if batch["status"] == "failed":
            raise self._error(f"batch {batch_id} failed: {batch_files.faults(batch)}")

    def _read(self, name: str, response, bound: float) -> float | None:
        """Keep what one line of a batch's output answers, and return its cost."""
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if status in REJECTED:
            self.rejected[name] = f"{status}: {shorten(answers.error_text(body))}"
            self.done.add(name)
            return None
        try:
            answer = read_answer(body)
        except answers.Unreadable:  # the request stays open
            # a success was charged for, even if it cannot be read
            return bound if status == 200 else None
        # raised before the batch counts as collected: with `answers_as` its answers can be had yet
        if failure := other_model(answer, self.settings):
            raise failure.error(self.settings)
        self.keep(name, answer)
        self.done.add(name)
        # `cost` goes by usual prices, `bound` is at the batch's
        tokens = answer["tokens_in"], answer["tokens_out"]
        return self.spending.cost(*tokens, bound / PRICE) * PRICE

    def _create(self, part: dict[str, str], requests: dict[str, dict]) -> dict[str, dict]:
        """Submit a batch; if the answer to that is lost, look for it before submitting it again."""
        content, sent = "\n".join(part.values()).encode(), []

        async def upload(client):
            file = ("requests.jsonl", io.BytesIO(content))
            return await client.files.with_raw_response.create(file=file, purpose="batch")

        async def submit(client):
            # again: the first request may have arrived although its answer was lost
            if sent:
                listed = await client.batches.with_raw_response.list(limit=PAGE)
                if file.encode() in listed.http_response.content:
                    return listed
            sent.append(file)
            # noted before it leaves, so that a lost answer makes the next attempt look first
            return await client.batches.with_raw_response.create(
                input_file_id=file,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata=self.metadata,
            )

        def submitted(body: bytes) -> str:
            # the new batch, or the listing that holds it
            found = answers.parse(body)
            if isinstance(found, dict) and "data" in found:
                ours = (b for b in listing(body)[0] if b.get("input_file_id") == file)
                found = next(ours, None)
            return identified(found)["id"]

        # the file is sent once, whatever happens to the request that names it
        file = self._call(upload, identified, FILES)["id"]
        bounds = {name: self.spending.bound(requests[name]) * PRICE for name in part}
        return {self._call(submit, submitted): bounds}

    def _asked(self, batch: dict) -> dict[str, float]:
        """What a batch was asked, as `_reserve`; nothing if that is gone."""
        lines = batch_files.objects(self._file(batch.get("input_file_id"), []))
        asked = {row["custom_id"]: row.get("body") for row in lines if is_named(row)}
        # it may answer what nobody asks for now; that costs all the same
        return self._reserve({name: self.requests.get(name, body) for name, body in asked.items()})

    def _ended(self, batch_id: str) -> dict:
        """A batch once it has ended."""
        # the server may never say that a batch has ended
        deadline = time.monotonic() + LONGEST
        while True:
            batch = self._call(lambda c: c.batches.with_raw_response.retrieve(batch_id), identified)
            if batch.get("status") in ENDED:
                return batch
            if time.monotonic() > deadline:
                raise self._error(f"batch {batch_id} does not end; run again to go on")
            counts = batch.get("request_counts")
            completed = counts.get("completed") if isinstance(counts, dict) else None
            if self.progress and isinstance(completed, int):
                self.progress(len(self.done) + completed, f"batch {batch.get('status')}")
            time.sleep(POLL)

    def _listed(self) -> list[dict]:
        """All batches that the server knows, page by page."""
        found, more, page = {}, True, {"limit": PAGE}
        while more:
            try:
                batches, more = self._call(partial(_list, page=page), listing)
            except NotFound:
                # the error is raised below: one that is raised here would carry the server's words
                batches = None
            if batches is None:
                raise self._error("no Batch API there (404); remove batch: true")
            more = more and any(batch["id"] not in found for batch in batches)  # or it begins anew
            found |= {batch["id"]: batch for batch in batches}
            page |= {"after": batches[-1]["id"]} if batches else {}
        return list(found.values())

    def _file(self, name, lost: list) -> bytes:
        """The content of a file, nothing for none; the name of one that is gone goes to `lost`."""
        if not name or not isinstance(name, str):
            return b""
        try:
            return self._call(lambda c: c.files.with_raw_response.content(name), bytes, FILES)
        except NotFound:
            lost.append(name)
            return b""

    def _call(self, send: Callable, read: Callable, times: float = 1.0):
        try:
            return call(self.settings, send, read, times)
        except Rejected as rejected:
            why = f"{rejected}"
        # raised out here, as in `_listed`: no error carries the server's words
        raise self._error(f"{why}; if it has no Batch API, remove batch: true")

    def _error(self, why: str) -> ServerError:
        return ServerError(f"{self.settings.base_url}: {why}")

    def _affordable(self, requests: dict[str, dict]) -> dict[str, dict]:
        """The requests that fit into the budget, their cost put aside."""
        fitting = {}
        for name, request in requests.items():
            # in order: what does not fit now is first in turn when the budget is raised
            if not self.spending.fits(self.spending.bound(request) * PRICE):
                break
            self._reserve({name: request})
            fitting[name] = request
        return fitting

    def _reserve(self, requests: dict[str, dict]) -> dict[str, float]:
        """Put aside what requests cost at most: key to dollars; what is none costs nothing."""
        bounds = {}
        for name, request in requests.items():
            try:
                bound = self.spending.bound(request) * PRICE
            # a file that comes back from the server may hold anything
            except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
                bound = 0.0
            bounds[name] = bound if math.isfinite(bound) else 0.0
            self.spending.start(bounds[name])
        return bounds


def _list(client, page: dict) -> Awaitable:
    return client.batches.with_raw_response.list(**page)
