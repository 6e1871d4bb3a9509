"""Whatever a server sends becomes a right value, or one of our own errors that says what to do."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_answers import ASKED, SETTINGS, completion

from vd.data.vprism import readings
from vd.judging.api import by_tokens, by_votes
from vd.servers import answers, batches
from vd.servers.answers import kept_part
from vd.servers.budget import Spending
from vd.servers.response import Failure, ServerError, interpret, read_answer

EXAMPLES = settings(
    max_examples=1000,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
KEY = "sk-secret-0123456789"
NAMES = [
    "choices",
    "message",
    "content",
    "refusal",
    "logprobs",
    "top_logprobs",
    "token",
    "logprob",
    "usage",
    "error",
]
NAMES += [
    "prompt_tokens",
    "completion_tokens",
    "model",
    "finish_reason",
    "text",
    "value",
    "type",
    "code",
    "label",
]
WORDS = [
    "support",
    " Support",
    "oppose",
    "neutral",
    "not support",
    "<think>",
    "</think>",
    "thinking",
    "m",
    "m-mini",
]
WORDS += [
    "stop",
    "length",
    '{"label": "support"}',
    "```json\n{}\n```",
    "\ud800",
    "\u2028",
    KEY,
    KEY[:14],
    "",
]
SAID = {"value_laden": True, "on_topic": True, "question": "Is it so?", "polarity": -1}
SCALARS = [
    None,
    True,
    False,
    -2,
    0,
    1,
    2.5,
    10**400,
    -(10**400),
    2**63,
    1e308,
    float("nan"),
    float("inf"),
]
SCALARS += [float("-inf"), -9999.0, 1e-9, 1e6, *WORDS]
DEEP = [[], {}, [[]], [SCALARS], dict(zip(NAMES, SCALARS, strict=False)), {"": {"": []}}]
DEEP += [[v] for v in SCALARS]
DEEP += [{name: v} for v in (None, 1, "support", [], ["support"]) for name in NAMES]
# drawn fast, unlike the next
parts = st.sampled_from(SCALARS) | st.sampled_from(DEEP) | st.text(max_size=5)
values = st.recursive(
    parts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
)


def places(whole, way=()):
    """The ways to all parts of a JSON value."""
    inner = enumerate(whole) if isinstance(whole, list) else ()
    inner = whole.items() if isinstance(whole, dict) else inner
    return [way, *(found for name, part in inner for found in places(part, (*way, name)))]


def replaced(whole, way, new):
    """A JSON value with one part replaced, unless an earlier replacement took it away."""
    if not way:
        return new
    place = whole
    for step in way[:-1]:
        try:
            place = place[step]
        except (LookupError, TypeError):
            return whole
    if isinstance(place, dict) or (isinstance(place, list) and way[-1] in range(len(place))):
        place[way[-1]] = new
    return whole


@st.composite
def mangled(draw, real):
    """A real value with up to three parts replaced, as JSON."""
    whole = copy.deepcopy(real)
    for way in draw(st.lists(st.sampled_from(places(real)[1:]), min_size=1, max_size=3)):
        whole = replaced(whole, way, copy.deepcopy(draw(parts)))
    return json.dumps(whole)


REAL = [completion(), completion(logprobs=True, top_logprobs=5), completion(response_format={})]
bodies = st.one_of(
    *(mangled(real).map(str.encode) for real in REAL * 2),
    st.tuples(mangled(REAL[1]), st.integers(0, 900)).map(lambda cut: cut[0][: cut[1]].encode()),
    st.binary(max_size=60),
    values.map(json.dumps).map(str.encode),
)


def assert_answer(answer):
    """What vd.servers.answers says an answer is; it can be written down and is read again alike."""
    assert isinstance(answer["content"], str) and "<think>" not in answer["content"]
    for name in ("refusal", "finish_reason", "model"):
        assert answer[name] is None or isinstance(answer[name], str)
    for name in ("tokens_in", "tokens_out"):
        assert answer[name] is None or (type(answer[name]) is int and 0 <= answer[name] < 2**31)
    for token, logprob in answer["tokens"] or ():
        assert isinstance(token, str) and type(logprob) is float and -1e5 < logprob <= 0
    text = json.dumps(answer, allow_nan=False, ensure_ascii=False)
    assert kept_part(text.encode().decode()) == answer
    assert KEY not in text and KEY[:14] not in text


def assert_judgement(row):
    """Probabilities that are some, with their label; or none, with a status that says why."""
    *shares, label, status, path, left, said = row
    assert path in ("logprobs", "votes") and isinstance(said, str)
    if status == "ok":
        assert all(0 <= p <= 1 for p in shares) and abs(sum(shares) - 1) < 1e-9 and 0 <= left <= 1
        assert shares[answers.STANCES.index(label)] == max(shares)
    else:
        assert status in ("unclear", "refused", "rejected")
        assert label is None and all(p != p for p in shares)


def assert_failure(failure):
    said = str(failure.error(SETTINGS))
    assert said.startswith(f"{SETTINGS.base_url}: ") and "run again" in said
    assert "\n" not in said and len(said) < 600
    said = said.removeprefix(SETTINGS.base_url)
    assert not [n for n in range(len(KEY) - 3) if KEY[n : n + 4] in said]


@pytest.fixture(autouse=True, scope="module")
def _key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        yield


@settings(EXAMPLES, max_examples=2500)
@given(
    st.lists(bodies, min_size=1, max_size=2),
    st.sampled_from([200, 200, 200, 201, 400, 404, 429, 500, 302]),
)
def test_responses_are_answers_or_failures_and_answers_judgements(given_bodies, status):
    headers = {
        "retry-after": given_bodies[0].decode("latin-1"),
        "location": given_bodies[-1].decode("latin-1"),
    }
    read = []
    for body in given_bodies:
        outcome = interpret(status, headers, body, SETTINGS, read_answer)
        if isinstance(outcome, Failure):
            assert_failure(outcome)
            continue
        read.append(outcome)
        assert_answer(outcome)
        if row := by_tokens(outcome):
            assert_judgement(row)
    if read:
        assert_judgement(by_votes([*read, {"rejected": "400: no"}]))


@EXAMPLES
@given(st.lists(mangled(SAID), max_size=2), st.sampled_from(WORDS), st.binary(max_size=9))
def test_writers_confirm_with_a_question_and_a_polarity_or_not_at_all(said, words, raw):
    for text in ("".join(said), words.join(said), f"{raw}```json\n{words.join(said)}\n```"):
        found = readings._read({"content": text})
        assert found["polarity"] in (-1, 0, 1) and type(found["polarity"]) is int
        assert found["question"].strip() if found["confirmed"] else found["question"] is None


def lines():
    """Lines of a batch's output, most of them for one of two requests, some of them broken."""
    real = [
        {"custom_id": name, "response": {"status_code": 200, "body": body}}
        for name, body in zip("abc", REAL, strict=True)
    ]  # fmt: skip
    whole = st.sampled_from(["null", *map(json.dumps, real)])
    return st.lists(st.one_of(mangled(real[0]), mangled(real[1]), whole), max_size=4)


class Cache:
    is_collected = collect = staticmethod(lambda batch: None)


@EXAMPLES
@given(lines(), st.binary(max_size=20))
def test_lines_of_a_batch_are_kept_rejected_or_left_open_and_paid_for_once(given_lines, raw):
    kept, paid = {}, []
    spending = Spending(SETTINGS, (0, 0.0), paid.append)
    how = SETTINGS, kept.__setitem__, spending, None, Cache, "purpose"
    session = batches._Session({"a": ASKED, "b": ASKED}, *how)
    content = "\n".join(given_lines).encode("utf-8", "surrogatepass") + b"\n" + raw
    ended = {"id": "1", "status": "completed", "output_file_id": "o"}
    session._ended, session._file = (
        lambda batch: ended,
        lambda name, lost: content if name == "o" else b"",
    )
    asked = session._reserve(session.requests)
    try:
        session.collect("1", asked)
    except ServerError as error:
        assert str(error).startswith(SETTINGS.base_url) and "answered: write model: " in str(error)
    else:
        assert kept.keys() | session.rejected.keys() == session.done <= {"a", "b"}
        assert len(paid) <= 2 and spending.calls == len(paid) and not spending.in_flight_calls
    for answer in kept.values():
        assert_answer(answer)
