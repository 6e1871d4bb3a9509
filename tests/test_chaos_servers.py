"""Ten thousand judgements by a server that answers and fails in every way that we know, at random.

Nothing is lost, doubled, misread or paid for twice: `pytest -m slow -s tests/test_chaos_servers.py`
"""

import json
import random
import time
from collections import Counter

import numpy as np
import pytest
from api_server import BROKEN, KEY, NO_LABEL, RIGHT, VOTES, ApiServer, label, shares
from test_api_judge import P, judge, replies

from vd import paths
from vd.servers import batches, client
from vd.servers.database import Cache

ANSWERS = 10_000
HEAD = b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\n"
RAW = {
    "no content": b"HTTP/1.1 204 X\r\n\r\n",
    "bad gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    "shorter than said": HEAD + b"Content-Length: 400\r\nConnection: close\r\n\r\n{}",
    "no HTTP": b"\x16\x03\x01 what?\r\n\r\n",
}
REFUSED = [408, 409, 425, 429, 500, 502, 503, 504, 529]
WISHES = ["0.01", "-5", "nan", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT"]
WITH_STATUS = (
    "an error",
    "an error in the choice",
)  # a refusal in the body of a success: not charged for


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(batches, "POLL", 0.05)
    server = ApiServer().start()
    server.dribble = 0.2
    yield server
    server.stop()


class Chaos:
    """What goes wrong with which request, drawn at random, and what was drawn."""

    def __init__(self, bad):
        self.random, self.bad = random.Random(0), bad
        self.drawn, self.charged, self.answered, self.without = Counter(), 0, Counter(), Counter()

    def __call__(self, number, request):
        text = request["messages"][0]["content"]
        if "Reply " not in text:
            self.charged += 1
            return None
        fails = self.random.random() < self.bad
        kind, fault = self.failure() if fails else self.answer("logprobs" in request)
        self.drawn[kind] += 1
        self.charged += kind != "refused"
        if kind in ("right", "votes instead", "no label"):
            self.answered[json.dumps(request, sort_keys=True)] += 1
            self.without[text] += kind == "no label"
        return fault

    def answer(self, by_tokens):
        draw = self.random.random()
        if by_tokens and draw < 0.03:
            return "votes instead", self.shape(VOTES)[1]
        if not by_tokens and draw < 0.1:
            return "no label", ("say", self.random.choice(NO_LABEL))
        return "right", None if draw > 0.9 else self.shape(RIGHT)[1]

    def failure(self):
        draw = self.random.random()
        if draw < 0.01:
            return "too slow", self.random.choice(["dribble", "stall"])
        if draw < 0.3:
            status, wish = self.random.choice(REFUSED), {"Retry-After": self.random.choice(WISHES)}
            return "refused", self.random.choice([status, (status, wish)])
        if draw < 0.4:
            return "dropped", "drop"
        if draw < 0.5:
            return "no HTTP", ("raw", self.random.choice(list(RAW.values())))
        name, fault = self.shape(BROKEN)
        return "refused" if name in WITH_STATUS else "broken", fault

    def shape(self, shapes):
        name = self.random.choice(list(shapes))
        return name, ("shape", shapes[name])


def assert_all_right(rows, judged, chaos):
    """Every reply has its own stance, and every vote that gives a label that of its own reply."""
    assert judged.index.equals(rows.index) and judged["status"].eq("ok").all()
    assert judged["label"].tolist() == [label(reply) for reply in rows["response"]]
    right = np.array([shares(reply) for reply in rows["response"]]) / 0.97
    by_tokens = (judged["path"] == "logprobs").to_numpy()
    assert np.allclose(judged[P][by_tokens], right[by_tokens], atol=1e-6)
    assert np.allclose(judged[P][~by_tokens].max(axis=1), 1)
    return int((~by_tokens).sum())


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0.2, 0.33])
def test_ten_thousand_judgements_by_a_server_that_answers_in_every_shape(server, bad):
    server.fault = chaos = Chaos(bad)
    rows, start = replies(ANSWERS).sample(frac=1, random_state=0), time.monotonic()
    asked = judge(server, max_in_flight=64, timeout=10.0, retries=40)
    judged = asked.judge(rows)
    seconds = time.monotonic() - start
    voted = assert_all_right(rows, judged, chaos)
    left = judged.loc[judged["path"] == "votes", "left"].to_numpy() * 5
    assert round(left.sum()) == chaos.without.total(), "votes without a label count as such"
    assert set(chaos.answered.values()) == {1}, "what had an answer was not asked again"
    assert len(chaos.answered) == ANSWERS + 5 * voted
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        kept = cache.rows.execute("select count(*) from answers").fetchone()[0]
        assert kept == len(chaos.answered)
        calls, dollars = cache.spent("study")
    assert calls == chaos.charged
    assert server.most <= 64 + chaos.drawn["too slow"], "given up by us, not yet by the server"
    sent = len(server.requests)
    assert_all_right(rows, asked.judge(rows), chaos)
    assert len(server.requests) == sent
    print(f"\n{ANSWERS:,} judgements ({voted} by votes) in {seconds:.0f} s")
    print(f"{sent:,} requests, {calls:,} calls, ${dollars:.2f}")
    print(", ".join(f"{n:,} {kind}" for kind, n in chaos.drawn.most_common()))


@pytest.mark.slow
def test_ten_thousand_judgements_by_batches_of_every_shape(server, monkeypatch):
    monkeypatch.setattr(batches, "MOST_REQUESTS", 2000)
    chance, drawn, answered = random.Random(0), Counter(), Counter()

    def line(body, batch):
        shapes = RIGHT if chance.random() > 0.25 else BROKEN
        drawn["right" if shapes is RIGHT else "broken"] += 1
        answered[json.dumps(body)] += shapes is RIGHT
        return chance.choice(list(shapes.values()))

    server.line_fault = line
    monkeypatch.setattr(batches, "ROUNDS", 20)
    rows = replies(ANSWERS)
    judged = judge(server, batch=True).judge(rows)
    assert assert_all_right(rows, judged, None) == 0
    assert len(answered) == ANSWERS and set(answered.values()) == {1}
    print(f"\n{ANSWERS:,} judgements by {len(server.batches)} batches; {dict(drawn)} lines")
