"""The API judge and servers that answer in other shapes, as another model, or without a label."""

import json
import sqlite3

import numpy as np
import pytest
from api_server import BROKEN, NO_LABEL, RIGHT, VOTES, label, shares
from test_api_judge import P, asked, assert_right, judge, replies

from vd import paths
from vd.servers.client import ServerError
from vd.servers.database import Cache


def number(request):
    """Of the reply that a request is about; None for what finds out what a server can do."""
    text = str(request)
    return int(text.split("Reply ")[1].split(".")[0]) if "Reply " in text else None


def spent():
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        return cache.spent("study")[0]


def kept():
    """Rows of the kept answers: key, content."""
    return sqlite3.connect(paths.cache() / "judgements.sqlite")


def test_shapes_beside_the_specification_are_read_at_once(server):
    shapes = list(RIGHT.values())

    def fault(n, request):
        return None if number(request) is None else ("shape", shapes[number(request)])

    server.fault = fault
    rows = replies(len(shapes))
    assert_right(rows, judge(server).judge(rows))
    assert_right(rows, judge(server).judge(rows))
    assert len(asked(server)) == len(shapes) and spent() == len(shapes) + 1


def test_log_probabilities_that_cannot_be_gone_by_give_way_to_votes(server):
    shapes = list(VOTES.values())

    def fault(n, request):
        asks = "logprobs" in request and number(request) is not None
        return ("shape", shapes[number(request)]) if asks else None

    server.fault = fault
    rows = replies(len(shapes))
    judged = judge(server, votes=2).judge(rows)
    assert judged["path"].eq("votes").all() and judged["left"].eq(0).all()
    assert judged["label"].tolist() == [label(reply) for reply in rows["response"]]
    assert len(asked(server)) == 3 * len(shapes)
    judge(server, votes=2).judge(rows)
    assert len(asked(server)) == 3 * len(shapes)


@pytest.mark.parametrize("shape", ["top_logprobs null", "top_logprobs missing", "logprob null"])
def test_at_first_contact_too(server, shape):
    server.fault = lambda n, request: ("shape", VOTES[shape]) if "logprobs" in request else None
    judged = judge(server, votes=1).judge(replies(2))
    assert judged["path"].eq("votes").all()
    assert judged["label"].tolist() == [label(f"Reply {i}.") for i in range(2)]


def test_what_is_no_answer_is_asked_again_and_its_upper_bound_counted(server):
    shapes, met = list(BROKEN.values()), set()

    def fault(n, request):
        first = number(request) is not None and number(request) not in met
        met.add(number(request))
        return ("shape", shapes[number(request)]) if first else None

    server.fault = fault
    rows = replies(len(shapes))
    assert_right(rows, judge(server).judge(rows))
    assert len(asked(server)) == 2 * len(shapes)
    refused = 2  # two of the shapes are errors with a status, which cost nothing
    assert spent() == 2 * len(shapes) + 1 - refused


@pytest.mark.parametrize("shape", BROKEN.values(), ids=BROKEN)
def test_a_server_that_never_answers_rightly_is_named_at_first_contact(server, shape):
    server.fault = lambda n, request: ("shape", shape)
    with pytest.raises(
        ServerError,
        match=r"^http://127.0.0.1:\d+/v1: .*; answers so far are kept, run again to go on$",
    ):
        judge(server, retries=1).judge(replies(3))
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", [("shape", BROKEN["content a number"]), 500])
def test_one_request_that_alone_fails_is_missing_with_its_reason(server, fault):
    server.fault = lambda n, request: fault if number(request) == 1 else None
    judged = judge(server, retries=2).judge(replies(5))
    assert judged["status"].tolist() == ["ok", "rejected", "ok", "ok", "ok"]
    assert judged.loc[[1], P].isna().all(axis=None)
    assert judged["answer"][1].startswith(("a broken answer: its content is no text", "500: no, "))
    assert len(asked(server)) == 4 + 3
    server.fault = lambda n, request: None
    assert_right(replies(5), judge(server).judge(replies(5)))
    assert len(asked(server)) == 4 + 3 + 1


@pytest.mark.parametrize("fault", [("shape", BROKEN["choices a text"]), 500])
def test_two_in_a_row_that_fail_are_the_servers_fault(server, fault):
    server.fault = lambda n, request: fault if n > 3 else None
    with pytest.raises(ServerError, match="run again to go on"):
        judge(server, max_in_flight=1, retries=2).judge(replies(50))
    assert len(server.requests) == 3 + 2 * 3


POISON = {
    "content of numbers": {"content": [1]},
    "content a number": {"content": 5},
    "content null and refusal true": {"content": None, "refusal": True},
    "no content": {"refusal": None},
    "a list": [],
    "null": None,
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_what_an_older_reader_kept_and_cannot_be_read_is_asked_again(server, poison):
    rows = replies(4)
    judge(server).judge(rows)
    with kept() as file:
        (name,) = file.execute("select key from answers limit 1").fetchone()
        file.execute("update answers set content = ? where key = ?", (json.dumps(poison), name))
    assert "3 answers kept, 1 to pay" in judge(server).cost_line(rows)
    assert_right(rows, judge(server).judge(rows))
    assert len(asked(server)) == 5


def test_what_an_older_reader_kept_in_another_shape_is_not_paid_for_again(server):
    server.logprobs = False
    rows = replies(3)
    judge(server, votes=1).judge(rows)
    with kept() as file:
        for name, text in file.execute("select key, content from answers").fetchall():
            answer = json.loads(text)
            parts = [{"type": "text", "text": answer["content"]}]
            odd = {
                "content": parts,
                "tokens": [["support", None]],
                "refusal": "",
                "tokens_in": "100",
                "model": None,
            }
            change = "update answers set content = ? where key = ?"
            file.execute(change, (json.dumps(answer | odd), name))
    judged = judge(server, votes=1).judge(rows)
    assert judged["label"].tolist() == [label(reply) for reply in rows["response"]]
    assert len(asked(server)) == 3


def test_votes_that_say_the_opposite_are_none(server):
    server.logprobs = server.structured = False
    server.fault = lambda n, request: (
        ("say", NO_LABEL[number(request)]) if number(request) in range(len(NO_LABEL)) else None
    )
    rows = replies(len(NO_LABEL) + 1)
    judged = judge(server, votes=2).judge(rows)
    assert judged["status"].tolist() == ["unclear"] * len(NO_LABEL) + ["ok"]
    assert judged["label"].isna().tolist() == [True] * len(NO_LABEL) + [False]


def test_another_model_than_the_one_asked_for_stops_with_both_names(server):
    server.fault = lambda n, request: ("model", "judge-mini") if n > 2 else None
    both = "asked for the model judge-2026-01-01, but judge-mini answered: write model: judge-mini"
    with pytest.raises(ServerError, match=both):
        judge(server, max_in_flight=1).judge(replies(9))
    assert len(server.requests) == 3 and spent() == 3
    with Cache(paths.cache() / "judgements.sqlite") as cache:
        assert cache.rows.execute("select count(*) from answers").fetchone()[0] == 1
    assert_right(replies(9), judge(server, answers_as="judge-mini").judge(replies(9)))
    assert len(server.requests) == 3 + 8


def test_a_dated_or_revised_name_is_the_same_model_and_recorded(server):
    names = ["judge", "judge-2026-01-01", "judge@5d2a", None, "JUDGE"]
    server.fault = lambda n, request: (
        "model",
        "judge" if number(request) is None else names[number(request)],
    )
    judged = judge(server, model="judge").judge(replies(5))
    assert_right(replies(5), judged)
    assert judged["answered"].fillna("").tolist() == [name or "" for name in names]
    assert judged["model"].eq("judge").all()


def test_kept_answers_of_another_model_are_asked_again(server):
    judge(server).judge(replies(3))
    with kept() as file:
        other = "replace(content, 'judge-2026-01-01', 'judge-mini')"
        file.execute(f"update answers set content = {other}")
    assert judge(server, answers_as="judge-mini").cost(replies(3))["calls"] == 0
    assert judge(server).cost(replies(3))["calls"] == 3
    assert_right(replies(3), judge(server).judge(replies(3)))
    assert len(asked(server)) == 6


def test_a_judge_that_gives_no_label_at_all_says_so_and_what_to_do(server):
    server.logprobs = server.structured = False

    def fault(n, request):
        return None if number(request) is None else ("say", "<think>Well, the reply")

    server.fault = fault
    for _ in range(2):
        with pytest.raises(ServerError, match=r"judge-2026-01-01 judged none of 12 replies \(12 "):
            judge(server, votes=2).judge(replies(12))
    assert len(asked(server)) == 24
    assert judge(server, votes=2).judge(replies(3))["status"].eq("unclear").all()


def test_what_a_server_can_do_is_found_out_anew_where_that_cannot_be_read_or_is_not_so_any_more(
    server,
):
    judge(server).judge(replies(2))
    with kept() as file:
        file.execute("""update abilities set found = '{"logprobs": "x"}'""")
    assert_right(replies(3), judge(server).judge(replies(3)))
    server.unknown = {"logprobs"}
    with pytest.raises(ServerError, match="rejects everything: 400"):
        judge(server, votes=1).judge(replies(9, start=10))
    judged = judge(server, votes=1).judge(replies(9, start=10))
    assert judged["path"].eq("votes").all() and np.allclose(judged[P].max(axis=1), 1)


def test_a_server_that_complains_of_the_same_for_ever_is_not_asked_for_ever(server):
    server.logprobs = False
    complaint = 400, "json_schema is not what I like"
    server.fault = lambda n, request: None if "logprobs" in request else complaint
    with pytest.raises(ServerError, match="400: json_schema is not what I like"):
        judge(server).judge(replies(1))
    assert len(server.requests) == 3


def test_all_probabilities_of_a_server_with_raw_tokens_are_right(server):
    server.fault = lambda n, request: ("shape", RIGHT["tokens with marks"])
    judged = judge(server).judge(replies(3))
    assert np.allclose(judged[P], np.array([shares(f"Reply {i}.") for i in range(3)]) / 0.97)
