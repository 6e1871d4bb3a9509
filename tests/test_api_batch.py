"""The Batch API, against a server on this machine that speaks it.

Half the price, and nothing asked twice.
"""

import json
from unittest import mock

import pytest
from api_server import BROKEN, RIGHT, ApiServer
from test_api_judge import asked, assert_right, judge, replies

from vd import paths
from vd.servers import batches, client
from vd.servers.batches import time
from vd.servers.database import Cache


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    monkeypatch.setattr(batches, "POLL", 0.01)
    server = ApiServer().start()
    yield server
    server.stop()


def sizes(server):
    """Requests per submitted batch."""
    return [
        len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()
    ]


def spent():
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        return cache.spent("study")


def reply_of(body):
    return int(body["messages"][0]["content"].split("Reply ")[1].split(".")[0])


def test_a_batch_gives_the_same_judgements_at_half_the_price(server):
    server.polls_to_end = 3
    rows = replies(30)
    assert_right(rows, judge(server, batch=True).judge(rows))
    assert sizes(server) == [30] and not asked(
        server
    )  # only the question what the server can do went the usual way
    full = (100 * 2.5 + 10) / 1e6
    assert spent() == (31, pytest.approx(full + 30 * full / 2))
    assert_right(rows, judge(server, batch=True).judge(rows))
    assert sizes(server) == [30]


def test_files_hold_what_the_protocol_asks_for(server):
    judge(server, batch=True).judge(replies(2))
    line = json.loads(server.files["file-0"].splitlines()[0])
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions") and line["body"][
        "logprobs"
    ]
    assert server.batches["batch-0"]["completion_window"] == "24h"


def test_many_requests_go_in_several_batches(server, monkeypatch):
    monkeypatch.setattr(batches, "MOST_REQUESTS", 8)
    assert_right(replies(20), judge(server, batch=True).judge(replies(20)))
    assert sizes(server) == [8, 8, 4]


def test_a_batch_under_way_is_taken_up_after_a_restart(server, monkeypatch):
    server.polls_to_end = 10**9

    def killed(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(time, "sleep", killed)
        judge(server, batch=True).judge(replies(10))
    server.polls_to_end = 1
    rows = replies(15)
    assert_right(rows, judge(server, batch=True).judge(rows))
    assert sizes(server) == [10, 5]
    judge(server, batch=True).judge(replies(3, start=50))
    assert sizes(server) == [10, 5, 3]


def test_batches_of_another_prompt_or_program_are_left_alone(server, monkeypatch):
    server.batches["other"] = {
        "id": "other",
        "object": "batch",
        "metadata": {"by": "someone"},
        "polls": 0,
    }
    assert_right(replies(3), judge(server, batch=True).judge(replies(3)))
    assert server.batches["other"]["polls"] == 0


@pytest.mark.parametrize("fault", [429, 500, "batch_expired"])
def test_lines_that_failed_are_submitted_again(server, fault):
    server.line_fault = lambda body, batch: (
        fault if batch["id"] == "batch-0" and reply_of(body) % 3 == 0 else None
    )
    assert_right(replies(12), judge(server, batch=True).judge(replies(12)))
    assert sizes(server) == [12, 4]


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_an_ended_batch_left_open_is_submitted_again(server, end):
    server.line_fault = lambda body, batch: (
        "batch_expired" if batch["id"] == "batch-0" and reply_of(body) > 4 else None
    )
    server.batch_end = lambda batch: end if batch["id"] == "batch-0" else "completed"
    assert_right(replies(12), judge(server, batch=True).judge(replies(12)))
    assert sizes(server) == [12, 7]


def test_rejected_lines_are_missing_and_not_repeated(server):
    server.line_fault = lambda body, batch: 400 if reply_of(body) == 2 else None
    judged = judge(server, batch=True).judge(replies(4))
    assert judged["status"].tolist() == ["ok", "ok", "rejected", "ok"] and sizes(server) == [4]


def test_a_batch_that_fails_whole_says_why_and_charges_nothing(server):
    server.line_fault = lambda body, batch: 500
    server.batch_end = lambda batch: (
        batch.update(errors={"data": [{"message": "too many tokens"}]}) or "failed"
    )
    with pytest.raises(client.ServerError, match="failed: too many tokens"):
        judge(server, batch=True).judge(replies(4))
    assert spent()[0] == 1
    server.batch_end, server.line_fault = lambda batch: "completed", lambda body, batch: None
    assert_right(replies(4), judge(server, batch=True).judge(replies(4)))


def test_a_server_that_never_answers_a_line_is_given_up(server):
    server.line_fault = lambda body, batch: 500 if reply_of(body) == 1 else None
    with pytest.raises(client.ServerError, match="1 requests unanswered after 5 batches"):
        judge(server, batch=True).judge(replies(3))
    assert sizes(server) == [3, 1, 1, 1, 1]


def test_the_budget_holds_for_batches(server):
    with pytest.raises(client.BudgetError, match="the budget is used up"):
        judge(server, batch=True, budget_calls=9).judge(replies(20))
    assert sizes(server) == [8] and spent()[0] == 9
    assert_right(replies(20), judge(server, batch=True, budget_calls=21).judge(replies(20)))
    assert sizes(server) == [8, 12]


def test_what_is_under_way_is_collected_though_no_budget_is_left(server, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(batches._Session, "collect", mock.Mock(side_effect=KeyboardInterrupt))
        judge(server, batch=True, budget_calls=9).judge(replies(20))
    assert sizes(server) == [8] and server.batches["batch-0"]["polls"] == 0
    with pytest.raises(client.BudgetError, match="the budget is used up"):
        judge(server, batch=True, budget_calls=9).judge(replies(20))
    assert sizes(server) == [8] and server.batches["batch-0"]["polls"] > 0
    assert_right(replies(20), judge(server, batch=True, budget_calls=21).judge(replies(20)))
    assert sizes(server) == [8, 12]


# what servers make of it


def of(number, fault):
    """A fault of the line about one reply, in the first batch."""

    def line(body, batch):
        return fault if batch["id"] == "batch-0" and reply_of(body) == number else None

    return line


def test_separators_inside_a_text_do_not_end_a_line(server):
    odd = [{"token": t, "logprob": -30.0} for t in ("\u2028", "\u2029", "\x85", "\x0c", "\x1c")]

    def whole(completion):
        completion["choices"][0]["logprobs"]["content"][0]["top_logprobs"] += odd
        return json.dumps(completion, ensure_ascii=False)

    server.line_fault = lambda body, batch: whole
    assert_right(replies(2), judge(server, batch=True).judge(replies(2)))
    assert sizes(server) == [2] and spent()[0] == 3


def test_batches_are_read_by_the_same_reader(server):
    right, broken = list(RIGHT.values()), list(BROKEN.values())
    shapes = right + broken

    def line(body, batch):
        return shapes[reply_of(body)] if batch["id"] == "batch-0" else None

    server.line_fault = line
    rows = replies(len(shapes))
    assert_right(rows, judge(server, batch=True).judge(rows))
    assert sizes(server) == [len(shapes), len(broken)], "what is no answer is submitted again"


ROWS = {
    "response null": {"response": None},
    "response a text": {"response": "x"},
    "body null": {"response": {"status_code": 200, "body": None}},
    "body missing": {"response": {"status_code": 200}},
    "status null": {"response": {"status_code": None, "body": None}},
    "status a list": {"response": {"status_code": [400], "body": None}},
    "no custom_id": {"custom_id": None},
    "custom_id a list": {"custom_id": ["x"]},
    "custom_id unknown": {"custom_id": "unknown"},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_odd_lines_leave_their_request_open(server, row):
    server.line_fault = of(1, row)
    assert_right(replies(3), judge(server, batch=True).judge(replies(3)))
    assert sizes(server) == [3, 1]
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        assert cache.rows.execute("select count(*) from answers").fetchone()[0] == 3


def test_a_line_that_is_there_twice_is_paid_for_once_and_the_readable_one_counts(server):
    def twice(batch):
        lines = server.files["batch-0-output"].split("\n")
        first = json.loads(lines[0])
        other = dict(zip("id", "o", strict=False)) | first | {"response": None}
        false = json.loads(lines[1]) | {"custom_id": first["custom_id"]}
        rows = [*map(json.dumps, [other, first, false]), lines[1]]
        server.files["batch-0-output"] = "\n".join(rows)
        return "completed"

    server.batch_end = twice
    assert_right(replies(2), judge(server, batch=True).judge(replies(2)))
    assert sizes(server) == [2] and spent()[0] == 1 + 2


def killed(seconds):
    raise KeyboardInterrupt


@pytest.mark.parametrize("others", [0, 5])
def test_a_batch_under_way_is_found_among_hundreds(server, monkeypatch, others):
    server.polls_to_end, server.per_page = 10**9, 2
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(time, "sleep", killed)
        judge(server, batch=True).judge(replies(10))
    ours = server.batches.pop("batch-0")
    for n in range(others):
        odd = [None, {}, {"by": "value-drifts"}, "x", ["by"]][n]
        server.batches[f"other-{n}"] = {"id": f"other-{n}", "metadata": odd, "polls": 0}
    server.batches["batch-0"] = ours | {"request_counts": None}
    server.polls_to_end = 1
    assert_right(replies(10), judge(server, batch=True).judge(replies(10)))
    assert list(server.files)[:1] == ["file-0"] and len(server.batches) == others + 1


def listed(page):
    """A fault: this page in place of the list of batches."""
    return lambda method, path: (200, page) if (method, path) == ("GET", "/v1/batches") else None


def test_a_listing_that_begins_anew_for_ever_ends(server):
    server.batches["other"] = {"id": "other", "object": "batch", "metadata": None}
    page = {"object": "list", "data": [server.batches["other"]], "has_more": True}
    server.route_fault = listed(page)
    assert_right(replies(2), judge(server, batch=True).judge(replies(2)))


PAGES = [None, [], {}, {"data": None}, {"data": [None]}, {"data": [{"id": None}]}]


@pytest.mark.parametrize("page", PAGES)
def test_an_odd_listing_is_one_line(server, page):
    server.route_fault = listed(page)
    with pytest.raises(client.ServerError, match="a broken answer: it holds no") as error:
        judge(server, batch=True, retries=1).judge(replies(2))
    assert "\n" not in str(error.value) and server.url in str(error.value)


def test_a_batch_whose_input_is_gone_is_awaited_before_anything_is_submitted(server, monkeypatch):
    server.polls_to_end = 10**9
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(time, "sleep", killed)
        judge(server, batch=True).judge(replies(10))
    server.run_batch(server.batches["batch-0"])
    del server.files["file-0"]
    server.polls_to_end = 1
    assert_right(replies(12), judge(server, batch=True).judge(replies(12)))
    batches = [server.files[f"batch-{n}-output"].count("custom_id") for n in range(2)]
    assert batches == [10, 2] and spent()[0] == 1 + 12


def test_answers_that_are_gone_are_counted_and_asked_again_only_in_another_run(server):
    def lose(batch):
        del server.files["batch-0-output"]
        return "completed"

    server.batch_end = lose
    gone = r"batch-0 failed: its answers are gone \(404\); run again to have it"
    with pytest.raises(client.ServerError, match=gone):
        judge(server, batch=True).judge(replies(4))
    assert sizes(server) == [4] and spent()[0] == 1 + 4
    server.batch_end = lambda batch: "completed"
    assert_right(replies(4), judge(server, batch=True).judge(replies(4)))
    assert sizes(server) == [4, 4]


def test_a_batch_whose_acknowledgement_is_lost_is_not_submitted_twice(server, monkeypatch):
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    lost = []
    server.route_fault = lambda method, path: method == "made" and not lost and not lost.append(1)
    assert_right(replies(3), judge(server, batch=True).judge(replies(3)))
    assert sizes(server) == [3] and lost


FAULTS = ["drop", (503, "busy"), (429, "slow"), (200, "no JSON")]
PLACES = ["/v1/files", "/v1/batches", "/v1/batches/batch-0", "/v1/files/batch-0-output/content"]


@pytest.mark.parametrize("where", PLACES)
def test_passing_trouble_of_every_request_is_waited_out(server, monkeypatch, where):
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    faults = FAULTS[:3] if where.endswith("content") else FAULTS[:]  # of a file, any content is one
    number = len(faults)
    server.route_fault = lambda method, path: faults.pop() if path == where and faults else None
    assert_right(replies(3), judge(server, batch=True).judge(replies(3)))
    assert sizes(server) == [3] and not faults and number >= 3 and spent()[0] == 1 + 3


def test_a_server_without_batches_says_what_to_remove(server):
    server.route_fault = lambda method, path: (404, {"detail": "Not Found"})
    with pytest.raises(client.ServerError, match=r"no Batch API there \(404\); remove"):
        judge(server, batch=True).judge(replies(3))
    server.route_fault = lambda method, path: (400, {"error": "no batches"})
    said = "400: no batches; if it has no Batch API, remove batch: true"
    with pytest.raises(client.ServerError, match=said):
        judge(server, batch=True).judge(replies(3))


def test_a_batch_of_another_model_is_not_kept_and_not_lost(server):
    server.line_fault = lambda body, batch: ("model", "judge-mini")
    for _ in range(2):
        both = "asked for the model judge-2026-01-01, but judge-mini answered"
        with pytest.raises(client.ServerError, match=both):
            judge(server, batch=True).judge(replies(3))
    assert_right(replies(3), judge(server, batch=True, answers_as="judge-mini").judge(replies(3)))
    assert sizes(server) == [3] and spent()[0] == 4


ERRORS = [None, {}, {"data": None}, {"data": [None]}, {"data": [{"message": None}]}, [{}]]


@pytest.mark.parametrize("errors", ERRORS)
def test_odd_reasons_of_a_batch_that_failed(server, errors):
    server.line_fault = lambda body, batch: 500
    server.batch_end = lambda batch: batch.update(errors=errors) or "failed"
    with pytest.raises(client.ServerError, match="batch batch-0 failed: ") as error:
        judge(server, batch=True).judge(replies(2))
    assert "\n" not in str(error.value)
