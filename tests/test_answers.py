"""Reading what servers say: a right value from every shape of an answer, else one error."""

import json

import numpy as np
import pytest
from api_server import BROKEN, LABELS, NO_LABEL, RIGHT, VOTES, ApiServer, label, shaped, shares

from vd.judging import api
from vd.servers import answers, secret
from vd.servers.answers import kept_part
from vd.servers.response import Failure, interpret, read_answer
from vd.study.servers import ServerSettings

ASKED = {"model": "m", "max_tokens": 1, "messages": [{"content": "<reply>\nReply 1.\n</reply>"}]}
SETTINGS = ServerSettings(model="m", base_url="http://localhost:1/v1")


def completion(**asked):
    return ApiServer.completion(type("", (), {"logprobs": True, "structured": True}), ASKED | asked)


def read(shape, **asked):
    """The answer to a request, given in a shape."""
    body = shaped(completion(**asked), shape)
    return read_answer(body if isinstance(body, bytes) else body.encode())


@pytest.mark.parametrize("shape", RIGHT.values(), ids=RIGHT)
def test_shapes_beside_the_specification_are_read_as_in_it(shape):
    by_tokens = api.by_tokens(read(shape, logprobs=True, top_logprobs=20))
    right = np.array(shares("Reply 1.")) / 0.97
    assert np.allclose(by_tokens[:3], right, atol=1e-6) and by_tokens[3:6] == (
        label("Reply 1."),
        "ok",
        "logprobs",
    )


TOKENS = [shape for shape in RIGHT.values() if "logprobs" in str(shape)]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("shape", [s for s in RIGHT.values() if s not in TOKENS])
def test_votes_are_read_in_every_shape(shape, structured):
    format = {"response_format": {}} if structured else {}
    voted = api.by_votes([read(shape, **format)] * 2)
    assert voted[3:7] == (label("Reply 1."), "ok", "votes", 0)


@pytest.mark.parametrize("shape", VOTES.values(), ids=VOTES)
def test_log_probabilities_that_cannot_be_gone_by_are_not(shape):
    answer = read(shape, logprobs=True, top_logprobs=20)
    assert answer["tokens"] is None and api.by_tokens(answer) is None
    assert api.by_votes([answer])[3] == label("Reply 1.")


@pytest.mark.parametrize("shape", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_one_error(shape):
    with pytest.raises(answers.Unreadable) as error:
        read(shape)
    assert "\n" not in str(error.value) and len(str(error.value)) > 5


@pytest.mark.parametrize("shape", BROKEN.values(), ids=BROKEN)
def test_what_is_no_answer_is_repeated_and_said_with_server_and_fix(shape):
    body = shaped(completion(), shape)
    failure = interpret(200, {}, body.encode(), SETTINGS, read_answer)
    assert isinstance(failure, Failure) and failure.retryable
    said = str(failure.error(SETTINGS))
    assert said.startswith("http://localhost:1/v1: ") and "run again to go on" in said
    assert "\n" not in said


@pytest.mark.parametrize("text", NO_LABEL)
def test_words_that_say_the_opposite_or_several_give_no_label(text):
    assert answers.label_in(answers.without_thoughts(text)) is None


@pytest.mark.parametrize("apostrophe", "’‘ʼ´`＇′'")
def test_every_apostrophe_negates(apostrophe):
    assert answers.label_in(f"It doesn{apostrophe}t support that.") is None
    assert answers.label_in(f"It’s the reply{apostrophe}s support.") == "support"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SUPPORT", "support"),
        ("oppose.", "oppose"),
        ("**Neutral**", "neutral"),
        ("The reply is neutral on this.", "neutral"),
        ("I think: support", "support"),
        ("It opposes the idea that museums are to be free", "oppose"),
        ("It argues against it, so: oppose", "oppose"),
        ("ｏｐｐｏｓｅ", "oppose"),
        ("sup\u00adport", "support"),
        ('{"label": "Oppose."}', "oppose"),
        ('```json\n{"label": "oppose", "why": "It does not support it."}\n```', "oppose"),
        ('Here it is: {"label": "oppose"}', "oppose"),
        ("<think>It does not oppose it.</think>support", "support"),
        ("[THINK]oppose[/THINK]support", "support"),
        (
            "<|channel|>analysis<|message|>oppose<|end|><|channel|>final<|message|>support",
            "support",
        ),
        ("the opposite", None),
        ("unopposed", None),
        ("what?", None),
        ("", None),
    ],
)
def test_labels_among_words(text, found):
    assert answers.label_in(answers.without_thoughts(text)) == found


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ("Support", "support"),
        (" opp", "oppose"),
        ("Ġneutral", "neutral"),
        ("▁support", "support"),
        ("**Sup", "support"),
        ("“oppose", "oppose"),
        ("neutrality", "neutral"),
        ("opposite", None),
        ("un", None),
        ("Ġ", None),
        ("", None),
    ],
)
def test_labels_that_tokens_begin(token, found):
    assert answers.begins(token) == found


def test_a_label_may_be_as_likely_as_can_be_and_another_impossible():
    tokens = [["support", 0.0], ["neutral", -float("inf")], ["oppose", -9999.0]]
    answer = answers.answer("support", None, "stop", tokens, "m", 1, 1)
    assert api.by_tokens(answer)[:7] == (1.0, 0.0, 0.0, "support", "ok", "logprobs", 0.0)


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", None, True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-3.5-turbo", "gpt-3.5-turbo-0125", True),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022", True),
        ("openai/gpt-4o", "gpt-4o-2024-08-06", True),
        ("Qwen2.5-7B", "qwen2.5-7b", True),
        ("llama3", "llama3:latest", True),
        ("qwen-q4_k_m", "/models/qwen-q4_k_m.gguf", True),
        ("name", "name@5d2a", True),
        ("/a path/name", "/a path/name@main", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "gpt-4o-mini-2024-07-18", False),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-05-13", False),
        ("gpt-4o-2024-08-06", "gpt-4o", False),
        ("gpt-4", "gpt-4-32k", False),
        ("llama-3", "llama-3-8b", False),
        ("qwen2", "qwen2.5", False),
        ("a/gpt-4o", "b/gpt-4o", False),
        ("gpt-4o", "gpt-3.5-turbo", False),
    ],
)
def test_who_answered_is_who_was_asked_or_a_dated_form_of_it(asked, answered, same):
    assert answers.is_from(answered, asked) == same
    assert answers.is_from(answered, asked, also=answered)


def test_kept_answers_pass_the_same_reader():
    answer = read(RIGHT["tokens twice"], logprobs=True, top_logprobs=20)
    assert kept_part(json.dumps(answer)) == answer
    old = answer | {
        "content": [{"type": "text", "text": "support"}],
        "tokens": [["support", None]],
        "refusal": "",
    }
    assert kept_part(json.dumps(old)) == answer | {
        "content": "support",
        "tokens": None,
        "refusal": None,
    }
    for broken in (
        {"content": 5},
        {"content": "x", "refusal": True},
        {"refusal": None},
        [],
        None,
        "x",
    ):
        assert kept_part(json.dumps(broken)) is None
    for broken in ("{", b"\xff", None):
        assert kept_part(broken) is None


def test_objects_are_found_fenced_nested_and_among_words():
    for text in (
        '{"a": 1, "b": {}}',
        'So {here}: ```json\n{"a": 1, "b": {}}\n```',
        '{"x": {"a": 1, "b": {}}}',
    ):
        assert answers.with_keys(text, "a", "b") == {"a": 1, "b": {}}
    assert answers.with_keys('{"a": 1}', "a", "b") is None
    assert answers.with_keys('{"a":' * 100_000, "a") is None


def test_the_key_is_blanked_whole_cut_and_in_another_case(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret-0123456789\n")
    key = "sk-secret-0123456789"
    for said in (
        key,
        key.upper(),
        key[:9],
        key[5:12],
        key[-6:],
        f"{key[:10]} {key[10:]}",
        f"{key[:6]}…{key[-4:]}",
    ):
        shown = secret.blank(f"no, {said}!")
        assert not [n for n in range(len(key) - 3) if key[n : n + 4] in shown.lower()]
        assert shown.startswith("no, ***") and shown.endswith("***!")
    assert secret.blank("It is 2345 secrets.", secret.LONG_PART) == "It is 2345 secrets."
    assert secret.blank(f"You sent {key[3:]}.", secret.LONG_PART) == "You sent ***."
    assert set(LABELS) == set(answers.STANCES)
