"""The Batch API: files of requests that a server answers within a day, at half the price.

The server knows every batch, and the cache knows which were collected. So a process that is killed or a machine that
is switched off loses nothing: the next call takes up the batches that are under way. What a batch left unanswered,
because lines failed or it expired or was cancelled, is submitted again.
"""

import io
import json
import time
from collections.abc import Callable

import openai
from openai.types.chat import ChatCompletion

from vd import api_client
from vd.api_cache import Cache
from vd.api_client import BudgetError, ServerError, Spending
from vd.record import Progress
from vd.study import ServerSettings

PRICE = 0.5  # of the usual one
MOST_REQUESTS, MOST_BYTES = 50_000, 150_000_000  # of a batch and of its file
ROUNDS = 5  # how often what stayed unanswered is submitted
POLL = 30.0  # seconds
ENDED = ("completed", "failed", "expired", "cancelled")


def ask(
    requests: dict[str, dict],
    settings: ServerSettings,
    keep: Callable[[str, dict], None],
    spending: Spending,
    progress: Progress | None,
    cache: Cache,
    purpose: str,
) -> dict[str, str]:
    """As `vd.api_client.ask`, by batches; returns when all are answered, which may take a day.

    Batches carry `purpose` (model and prompt); earlier ones with the same purpose are taken up first.
    """
    waiting = dict(requests)
    client = openai.OpenAI(
        api_key=api_client.api_key(settings),
        base_url=settings.base_url,
        timeout=settings.timeout,
        max_retries=settings.retries,
    )
    try:
        with client:
            session = _Session(client, settings, keep, spending, cache, purpose)
            under_way = session.take_up()
            for _ in range(ROUNDS):
                flying = set().union(*under_way.values())
                under_way |= session.submit({k: r for k, r in waiting.items() if k not in flying})
                for batch, asked in under_way.items():
                    session.collect(batch, asked, progress)
                under_way = {}
                waiting = {k: r for k, r in waiting.items() if k not in session.done}
                if not waiting:
                    return session.rejected
    except openai.APIError as error:
        raise ServerError(api_client.explain(error, settings)) from None
    raise ServerError(
        f"{settings.base_url}: {len(waiting)} requests unanswered after {ROUNDS} batches; run again to go on"
    )


class _Session:
    """One call of `ask`."""

    def __init__(self, client, settings, keep, spending, cache, purpose):
        self.client, self.settings, self.keep, self.spending, self.cache = client, settings, keep, spending, cache
        self.metadata = {"by": "value-drifts", "purpose": purpose[:512]}
        self.done, self.rejected = set(), {}

    def take_up(self) -> dict[str, dict[str, float]]:
        """Batches submitted before and not collected: id to the keys and upper bounds of cost of their requests."""
        found = {}
        for batch in self.client.batches.list(limit=100):
            if batch.metadata == self.metadata and not self.cache.is_collected(batch.id):
                lines = self.client.files.content(batch.input_file_id).text.splitlines()
                found[batch.id] = self._reserve({r["custom_id"]: r["body"] for r in map(json.loads, lines)})
        return found

    def submit(self, requests: dict[str, dict]) -> dict[str, dict[str, float]]:
        """Submit as many as the budget allows, in as many batches as their size asks for."""
        batches, part, size = {}, {}, 0
        affordable = self._affordable(requests)
        if requests and not affordable:
            raise BudgetError(self.spending.exhausted())
        for name, request in affordable.items():
            line = json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": request})
            if part and (len(part) == MOST_REQUESTS or size + len(line) > MOST_BYTES):
                batches |= self._create(part, affordable)
                part, size = {}, 0
            part[name], size = line, size + len(line.encode()) + 1
        return batches | (self._create(part, affordable) if part else {})

    def collect(self, batch_id: str, asked: dict[str, float], progress: Progress | None) -> None:
        """Wait until a batch has ended and keep what it answered."""
        while (batch := self.client.batches.retrieve(batch_id)).status not in ENDED:
            if progress and batch.request_counts:
                progress(len(self.done) + batch.request_counts.completed, f"batch {batch.status}")
            time.sleep(POLL)
        costs = {}
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self.client.files.content(file).text.splitlines():
                name, cost = self._read(line, asked)
                costs[name] = cost
        for name, bound in asked.items():
            self.spending.end(bound, costs.get(name))
        self.cache.collect(batch_id)
        if batch.status == "failed":
            why = "; ".join(e.message or "" for e in batch.errors.data) if batch.errors else "it does not say why"
            raise ServerError(f"{self.settings.base_url}: batch {batch_id} failed: {why}")

    def _read(self, line: str, asked: dict[str, float]) -> tuple[str | None, float | None]:
        """Key and cost of one line of a batch's output; a line that is broken or no answer leaves its request open."""
        try:
            row = json.loads(line)
            name, response = row["custom_id"], row.get("response") or {}
            if response.get("status_code") in api_client.REJECTED:
                self.rejected[name] = f"{response['status_code']}: {json.dumps(response['body'])[:300]}"
                self.done.add(name)
                return name, None
            answer = api_client.read(ChatCompletion.model_validate(response["body"]))
        except (ValueError, KeyError, TypeError):
            return None, None
        self.keep(name, answer)
        self.done.add(name)
        return name, self.spending.cost(answer["tokens_in"], answer["tokens_out"], asked[name] / PRICE) * PRICE

    def _create(self, part: dict[str, str], requests: dict[str, dict]) -> dict[str, dict[str, float]]:
        content = io.BytesIO("\n".join(part.values()).encode())
        file = self.client.files.create(file=("requests.jsonl", content), purpose="batch")
        batch = self.client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata=self.metadata
        )
        return {batch.id: {name: self.spending.bound(requests[name]) * PRICE for name in part}}

    def _affordable(self, requests: dict[str, dict]) -> dict[str, dict]:
        """The requests that fit into the budget, their cost put aside."""
        fitting = {}
        for name, request in requests.items():
            if not self.spending.fits(self.spending.bound(request) * PRICE):
                break
            self._reserve({name: request})
            fitting[name] = request
        return fitting

    def _reserve(self, requests: dict[str, dict]) -> dict[str, float]:
        """Put aside what requests cost at most: key to dollars."""
        bounds = {name: self.spending.bound(request) * PRICE for name, request in requests.items()}
        for bound in bounds.values():
            self.spending.start(bound)
        return bounds
