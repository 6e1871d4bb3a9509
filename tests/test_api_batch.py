"""The Batch API, against a server on this machine that speaks it: half the price, and nothing asked twice."""

import json

import pytest
from api_server import ApiServer
from test_api_judge import asked, assert_right, judge, replies

from vd import api_batch, api_client, paths
from vd.api_cache import Cache


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    monkeypatch.setattr(api_batch, "POLL", 0.01)
    server = ApiServer().start()
    yield server
    server.stop()


def sizes(server):
    """Requests per submitted batch."""
    return [len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()]


def spent():
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        return cache.spent("study")


def reply_of(body):
    return int(body["messages"][0]["content"].split("Reply ")[1].split(".")[0])


def test_a_batch_gives_the_same_judgements_at_half_the_price(server):
    server.polls_to_end = 3
    rows = replies(30)
    assert_right(rows, judge(server, batch=True).judge(rows))
    assert sizes(server) == [30] and not asked(server)  # only the question what the server can do went the usual way
    full = (100 * 2.5 + 10) / 1e6
    assert spent() == (31, pytest.approx(full + 30 * full / 2))
    assert_right(rows, judge(server, batch=True).judge(rows))
    assert sizes(server) == [30]


def test_files_hold_what_the_protocol_asks_for(server):
    judge(server, batch=True).judge(replies(2))
    line = json.loads(server.files["file-0"].splitlines()[0])
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions") and line["body"]["logprobs"]
    assert server.batches["batch-0"]["completion_window"] == "24h"


def test_many_requests_go_in_several_batches(server, monkeypatch):
    monkeypatch.setattr(api_batch, "MOST_REQUESTS", 8)
    assert_right(replies(20), judge(server, batch=True).judge(replies(20)))
    assert sizes(server) == [8, 8, 4]


def test_a_batch_under_way_is_taken_up_after_a_restart(server, monkeypatch):
    server.polls_to_end = 10**9

    def killed(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(api_batch.time, "sleep", killed)
        judge(server, batch=True).judge(replies(10))
    server.polls_to_end = 1
    rows = replies(15)
    assert_right(rows, judge(server, batch=True).judge(rows))
    assert sizes(server) == [10, 5]
    judge(server, batch=True).judge(replies(3, start=50))
    assert sizes(server) == [10, 5, 3]


def test_batches_of_another_prompt_or_program_are_left_alone(server, monkeypatch):
    server.batches["other"] = {"id": "other", "object": "batch", "metadata": {"by": "someone"}, "polls": 0}
    assert_right(replies(3), judge(server, batch=True).judge(replies(3)))
    assert server.batches["other"]["polls"] == 0


@pytest.mark.parametrize("fault", [429, 500, "batch_expired"])
def test_lines_that_failed_are_submitted_again(server, fault):
    server.line_fault = lambda body, batch: fault if batch["id"] == "batch-0" and reply_of(body) % 3 == 0 else None
    assert_right(replies(12), judge(server, batch=True).judge(replies(12)))
    assert sizes(server) == [12, 4]


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_an_ended_batch_left_open_is_submitted_again(server, end):
    server.line_fault = lambda body, batch: "batch_expired" if batch["id"] == "batch-0" and reply_of(body) > 4 else None
    server.batch_end = lambda batch: end if batch["id"] == "batch-0" else "completed"
    assert_right(replies(12), judge(server, batch=True).judge(replies(12)))
    assert sizes(server) == [12, 7]


def test_rejected_lines_are_missing_and_not_repeated(server):
    server.line_fault = lambda body, batch: 400 if reply_of(body) == 2 else None
    judged = judge(server, batch=True).judge(replies(4))
    assert judged["status"].tolist() == ["ok", "ok", "rejected", "ok"] and sizes(server) == [4]


def test_a_batch_that_fails_whole_says_why_and_charges_nothing(server):
    server.line_fault = lambda body, batch: 500
    server.batch_end = lambda batch: batch.update(errors={"data": [{"message": "too many tokens"}]}) or "failed"
    with pytest.raises(api_client.ServerError, match="failed: too many tokens"):
        judge(server, batch=True).judge(replies(4))
    assert spent()[0] == 1
    server.batch_end, server.line_fault = lambda batch: "completed", lambda body, batch: None
    assert_right(replies(4), judge(server, batch=True).judge(replies(4)))


def test_a_server_that_never_answers_a_line_is_given_up(server):
    server.line_fault = lambda body, batch: 500 if reply_of(body) == 1 else None
    with pytest.raises(api_client.ServerError, match="1 requests unanswered after 5 batches"):
        judge(server, batch=True).judge(replies(3))
    assert sizes(server) == [3, 1, 1, 1, 1]


def test_the_budget_holds_for_batches(server):
    with pytest.raises(api_client.BudgetError, match="the budget is used up"):
        judge(server, batch=True, budget_calls=9).judge(replies(20))
    assert sizes(server) == [8] and spent()[0] == 9
    assert_right(replies(20), judge(server, batch=True, budget_calls=21).judge(replies(20)))
    assert sizes(server) == [8, 12]
