"""The API judge against a server on this machine that fails as it is told.

Nothing lost, doubled or mixed up.
"""

import random
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from api_server import KEY, LABELS, label, shares

from vd import paths
from vd.judging import api
from vd.servers import client
from vd.servers.database import Cache
from vd.study.servers import ApiJudgeSettings

P = ["p_support", "p_neutral", "p_oppose"]
COLUMNS = [*P, *"label status path left answer answered model base_url prompt_version".split()]
COLUMNS += ["temperature", "seed", "votes"]


def replies(n, start=0):
    rows = range(start, start + n)
    return pd.DataFrame(
        {
            "prompt": [f"Should {i % 7} {{be}} so?" for i in rows],
            "response": [f"Reply {i}." for i in rows],
        }
    )


def judge(server, order=LABELS, **changed):
    given = {
        "model": "judge-2026-01-01",
        "base_url": server.url,
        "timeout": 5.0,
        "price_in": 2.5,
        "price_out": 10.0,
    }
    return api.ApiJudge(ApiJudgeSettings(**given | changed), "study", order)


def asked(server):
    """Requests without those that find out what the server can do."""
    return [r for r in server.requests if "Should tea be free?" not in r["messages"][0]["content"]]


def assert_right(rows, judged):
    """Every row has the stance of its own reply."""
    assert judged.index.equals(rows.index) and judged["status"].eq("ok").all()
    right = np.array([shares(reply) for reply in rows["response"]]) / 0.97
    assert np.allclose(judged[P], right)
    assert judged["label"].tolist() == [label(reply) for reply in rows["response"]]


def test_probabilities_are_the_softmax_over_the_labels_in_every_spelling(server):
    rows = replies(5)
    judged = judge(server).judge(rows)
    assert_right(rows, judged)
    assert judged["path"].eq("logprobs").all() and np.allclose(judged["left"], 0.03)
    assert {r["max_tokens"] for r in asked(server)} == {1} and len(asked(server)) == 5


def test_money_and_patience_change_no_answer_so_they_re_run_nothing(server):
    plain = judge(server).settings.model_dump_json()
    operational = {
        "budget_dollars": 1.0,
        "budget_calls": 9,
        "price_in": 9.0,
        "timeout": 1.0,
        "retries": 0,
    }
    assert (
        judge(server, **operational, max_in_flight=1, batch=True).settings.model_dump_json()
        == plain
    )
    assert judge(server, share=0.5).settings.model_dump_json() != plain


def test_a_budget_in_dollars_needs_prices(server):
    with pytest.raises(ValueError, match="budget_dollars needs price_in and price_out"):
        ApiJudgeSettings(model="m", budget_dollars=1.0)


def test_every_row_says_who_judged_it_and_how(server):
    judged = judge(server, temperature=0.5, seed=3).judge(replies(2))
    row = judged.iloc[0]
    assert (row["model"], row["base_url"], row["temperature"], row["seed"]) == (
        "judge-2026-01-01",
        server.url,
        0.5,
        3,
    )
    assert row["prompt_version"].startswith("stance-v1@") and list(judged) == COLUMNS


@pytest.mark.parametrize("structured", [True, False])
def test_without_log_probabilities_answers_vote(server, structured):
    server.logprobs, server.structured = False, structured
    rows = replies(4)
    judged = judge(server, votes=3).judge(rows)
    assert (
        judged["label"].tolist() == [label(r) for r in rows["response"]]
        and judged["path"].eq("votes").all()
    )
    votes = asked(server)
    assert (
        len(votes) == 12
        and {r["seed"] for r in votes} == {0, 1, 2}
        and {r["temperature"] for r in votes} == {1.0}
    )
    assert all(("response_format" in r) == structured for r in votes)
    assert judged["votes"].eq(3).all() and judged["temperature"].eq(1.0).all()
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        can = cache.capabilities(server.url, "judge-2026-01-01")
    assert can["logprobs"] == 0 and can["structured"] == structured


def test_votes_are_counted():
    def said(*contents):
        return api.by_votes([{"content": c, "refusal": None} for c in contents])

    assert said("SUPPORT", "oppose.", "I think: support")[:4] == (2 / 3, 0, 1 / 3, "support")
    unsure = said("support", "It does not support it", "support or oppose", "what?")
    assert unsure[3:5] == ("support", "ok") and unsure[6] == 0.75
    assert said("hm", "so")[4] == "unclear"


@pytest.mark.parametrize(
    "key", ["logprobs", "top_logprobs", "temperature", "seed", "max_tokens", "response_format"]
)
def test_keys_that_a_server_refuses_are_found_once_and_left_out(server, key):
    server.unknown = {key}
    server.logprobs = key != "response_format"
    rows = replies(3)
    first = judge(server).judge(rows)
    assert first["label"].tolist() == [label(r) for r in rows["response"]]
    assert all(key not in r for r in asked(server))
    before = len(server.requests)
    judge(server).judge(replies(3, start=10))
    assert all(key not in r for r in server.requests[before:]) and before - len(asked(server)) < 6


def test_the_order_of_labels_can_be_swapped(server):
    judge(server, order=LABELS[::-1]).judge(replies(1))
    text = asked(server)[0]["messages"][0]["content"]
    assert text.index("oppose:") < text.index("neutral:") < text.index("support:")
    assert text.endswith("Answer with one word: oppose, neutral or support.")


def test_nothing_is_asked_or_paid_twice(server):
    rows = replies(20)
    doubled = pd.concat([rows, rows], ignore_index=True)
    assert_right(doubled, judge(server).judge(doubled))
    assert len(asked(server)) == 20
    assert_right(rows, judge(server).judge(rows))
    assert len(server.requests) == 21
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        calls, dollars = cache.spent("study")
    assert calls == 21 and dollars == pytest.approx(21 * (100 * 2.5 + 10) / 1e6)


def test_another_prompt_asks_anew_and_says_so(server, tmp_path, monkeypatch):
    rows = replies(3)
    one = judge(server)
    one.judge(rows)
    assert "3 answers kept, 0 to pay" in one.cost_line(rows)
    text = (paths.PROMPTS / "stance-v1.yaml").read_text()
    (tmp_path / "stance-v1.yaml").write_text(text.replace("one word", "a single word"))
    monkeypatch.setattr(paths, "PROMPTS", tmp_path)
    other = judge(server)
    assert other.version != one.version
    assert "3 to pay" in other.cost_line(
        rows
    ) and "3 answers to other prompts are kept" in other.cost_line(rows)


def test_the_cost_line_asks_nothing_and_comes_close(server):
    rows = replies(50)
    line = judge(server).cost_line(rows)
    assert (
        not server.requests
        and "50 rows, 50 distinct; 0 answers kept, 50 to pay" in line
        and "$0.0" in line
    )
    judge(server).judge(rows.head(10))
    cost = judge(server).cost(rows)
    assert cost["calls"] == 40 and cost["dollars"] == pytest.approx(40 * (100 * 2.5 + 10) / 1e6)
    assert judge(server, batch=True).cost(rows)["dollars"] == pytest.approx(cost["dollars"] / 2)


TRANSIENT = {
    "429 with Retry-After": (429, {"Retry-After": "0.05"}),
    "429 with a date": (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429": 429,
    "500": 500,
    "503": 503,
    "dropped connection": "drop",
    "60 s stall": "stall",
    "truncated JSON": "truncated",
    "empty choices": "empty",
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_what_may_pass_is_repeated(server, fault):
    server.fault = lambda number, request: fault if number in (2, 4) else None
    rows = replies(4)
    assert_right(rows, judge(server, timeout=0.5).judge(rows))
    assert len(asked(server)) == 6


def test_all_requests_wait_as_long_as_a_server_asks(server):
    server.fault = lambda number, request: (429, {"Retry-After": "1"}) if number == 2 else None
    start = time.monotonic()
    judge(server, max_in_flight=1).judge(replies(3))
    assert 1 <= time.monotonic() - start < 3


def test_an_exhausted_rate_limit_is_waited_for(server):
    server.headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
    start = time.monotonic()
    judge(server, max_in_flight=1).judge(replies(3))
    assert time.monotonic() - start >= 0.6  # between three requests


FATAL = {
    "another address": ("html", "base_url mostly ends in /v1"),
    "bad key": (401, "key refused (401)"),
    "wrong model name": (404, "no model 'judge-2026-01-01' there (404)"),
    "no credit": ((429, "insufficient_quota"), "no credit left"),
    "server stays down": (503, "503"),
}


@pytest.mark.parametrize(("fault", "said"), FATAL.values(), ids=FATAL)
def test_what_cannot_pass_stops_at_once_with_one_line_and_without_the_key(server, fault, said):
    server.fault = lambda number, request: fault if number > 5 else None
    with pytest.raises(client.ServerError) as error:
        judge(server, max_in_flight=2, retries=2).judge(replies(200))
    assert said in str(error.value) and KEY not in str(error.value) and "\n" not in str(error.value)
    assert len(server.requests) < 15
    server.fault = lambda number, request: None
    before = len(server.requests)
    assert_right(replies(200), judge(server).judge(replies(200)))
    assert len(server.requests) - before == 196  # four answers were kept


def test_nobody_answers(server):
    gone = judge(server, base_url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(
        client.ServerError, match="nobody answers; start the server or correct base_url"
    ):
        gone.judge(replies(1))
    with Cache(gone.file) as cache:
        assert cache.spent("study") == (0, 0)


def test_openai_wants_a_key(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(client.ServerError, match="set the environment variable OPENAI_API_KEY"):
        judge(server, base_url="https://api.openai.com/v1").judge(replies(1))


def test_answers_without_log_probabilities_fall_back_to_votes(server):
    server.fault = lambda number, request: "no logprobs" if "Reply 1." in str(request) else None
    judged = judge(server).judge(replies(3))
    assert (
        judged["path"].tolist() == ["logprobs", "votes", "logprobs"]
        and judged["status"].eq("ok").all()
    )


@pytest.mark.parametrize(
    ("said", "status", "found"),
    [("OPPOSE", "ok", "oppose"), ("The reply is neutral on this.", "ok", "neutral"), ("refusal", "refused", None),
     ("I will not judge that.", "unclear", None), ("either support or oppose", "unclear", None)],
)  # fmt: skip
def test_odd_answers_are_read_or_left_missing_never_guessed(server, said, status, found):
    server.fault = lambda number, request: ("say", said) if "Reply 1." in str(request) else None
    judged = judge(server).judge(replies(3))
    assert judged["status"].tolist() == ["ok", status, "ok"] and judged["answer"].iloc[1]
    assert judged["label"].iloc[1] == found or (found is None and judged["label"].isna().iloc[1])
    assert judged[P].iloc[1].isna().all() == (found is None)
    before = len(server.requests)
    judge(server).judge(replies(3))
    assert len(server.requests) == before  # it was paid for, so it is kept


def test_a_rejected_request_is_missing_with_its_reason_and_asked_again_later(server):
    server.fault = lambda number, request: 400 if "Reply 1." in str(request) else None
    judged = judge(server).judge(replies(3))
    assert (
        judged["status"].tolist() == ["ok", "rejected", "ok"]
        and KEY not in judged["answer"].iloc[1]
    )
    server.fault = lambda number, request: None
    assert_right(replies(3), judge(server).judge(replies(3)))


def test_a_server_that_rejects_everything_is_not_asked_everything(server):
    server.fault = lambda number, request: 422 if number > 1 else None
    with pytest.raises(client.ServerError, match="rejects everything: 422"):
        judge(server, max_in_flight=1).judge(replies(50))
    assert len(asked(server)) == 5


@pytest.mark.parametrize("budget", [{"budget_calls": 8}, {"budget_dollars": 0.0200}])
def test_a_budget_is_never_exceeded_and_can_be_raised(server, budget):
    rows = replies(100)
    with pytest.raises(client.BudgetError, match=r"raise budget_calls or budget_dollars"):
        judge(server, max_in_flight=16, **budget).judge(rows)
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        calls, dollars = cache.spent("study")
    assert calls == len(server.requests) and 5 < calls < 101
    assert calls <= budget.get("budget_calls", 1000) and dollars <= budget.get(
        "budget_dollars", 1000
    )
    if "budget_calls" in budget:
        assert calls == 8
    before = len(server.requests)
    assert_right(rows, judge(server, budget_calls=101).judge(rows))
    assert len(server.requests) == 101 and before < 101


def test_ten_thousand_judgements_with_a_fifth_of_requests_failing(server):
    chance = random.Random(0)
    kinds = [429, (429, {"Retry-After": "0.01"}), 500, 503, "drop", "truncated", "empty"]
    server.fault = lambda number, request: chance.choice(kinds) if chance.random() < 0.2 else None
    rows = replies(10_000).sample(frac=1, random_state=0)
    assert_right(rows, judge(server, max_in_flight=64).judge(rows))
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        assert cache.rows.execute("select count(*) from answers").fetchone()[0] == 10_000
    assert 11_500 < len(server.requests) < 13_500 and server.most <= 64


def test_killed_at_any_time_it_loses_only_what_was_in_flight(server, tmp_path):
    server.latency = 0.05
    code = "import sys; sys.path.insert(0, 'tests'); from test_api_judge import *; "
    code += f"judge(type('', (), {{'url': '{server.url}'}}), max_in_flight=4).judge(replies(500))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=paths.ROOT)
    while len(server.requests) < 60:
        time.sleep(0.01)
    process.kill()
    process.wait()
    sent = len(server.requests)
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        kept = cache.rows.execute("select count(*) from answers").fetchone()[0]
    assert sent - 1 - 4 <= kept <= sent - 1
    server.latency = 0
    assert_right(replies(500), judge(server).judge(replies(500)))
    assert len(server.requests) <= 501 + 4


def test_no_more_in_flight_than_allowed(server):
    server.latency = 0.02
    judge(server, max_in_flight=7).judge(replies(60))
    assert 5 <= server.most <= 7


def test_the_key_is_nowhere_in_what_is_kept(server):
    server.fault = lambda number, request: 400 if number == 3 else None
    judged = judge(server).judge(replies(5))
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert (
        KEY not in judged.to_csv()
        and KEY.encode() not in (paths.cache() / "judgements.sqlite").read_bytes()
    )
