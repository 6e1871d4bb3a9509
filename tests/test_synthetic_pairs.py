"""Synthetic pairs: what the writer is told, what counts as a pair, and what a server may answer."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from api_server import KEY

from vd import paths
from vd.data.sets import corpus
from vd.recipes import make, writers
from vd.recipes.kinds import synthetic_pairs
from vd.recipes.making import yield_table
from vd.servers.client import ServerError
from vd.store import fingerprint
from vd.study.servers import OPENAI
from vd.study.settings import WriterSettings

QUESTIONS = [f"Should tea {{be}} allowed, part {i}?" for i in range(6)]
ASKED = pd.DataFrame({"prompt_id": [f"tea-{i}" for i in range(6)], "prompt": QUESTIONS})


def saying(content, reason="stop"):
    """A completion with a content of any type."""

    def shape(whole):
        message = {"role": "assistant", "content": content}
        whole["choices"][0] |= {"finish_reason": reason, "message": message}
        return json.dumps(whole)

    return "shape", shape


class Judge:
    """Reads the side off the first words."""

    name = "first words"

    def score(self, responses):
        support = responses["response"].str.startswith(("I agree", "Yes")).astype(float)
        oppose = responses["response"].str.startswith(("I disagree", "No")).astype(float)
        neutral = 1 - support - oppose
        scored = pd.DataFrame({"p_support": support, "p_neutral": neutral, "p_oppose": oppose})
        return scored.assign(label=scored.idxmax(axis=1).str.removeprefix("p_"))


@pytest.fixture
def server(server):
    """A server, and a cache of its own; `plan` maps requests' numbers (from 1) to answers."""
    server.plan, server.always = {}, None

    def fault(number, request):
        planned = server.always or server.plan.get(number) or f"I agree {number}."
        return saying(planned) if isinstance(planned, str) and planned != "html" else planned

    server.fault = fault
    return server


def writer(server, **changed):
    """A writer at the server."""
    given = {"base_url": server.url, "max_in_flight": 1, "retries": 0, "timeout": 5.0}
    settings = WriterSettings(model="writer", **given | changed)
    how = synthetic_pairs.Settings(recipe="synthetic_pairs", writer=settings)
    return writers.ServerWriter("mine", how, "v1")


def test_the_writer_is_told_one_side_of_a_question_as_it_is():
    told = synthetic_pairs.message(QUESTIONS[0], "oppose")
    assert "rejects what the question proposes" in told and told.endswith(f": {QUESTIONS[0]}")
    assert "without opening with Yes or No" in told


def test_another_instruction_is_another_version_and_a_comment_is_none(monkeypatch):
    before, text = make.version(synthetic_pairs), fingerprint._text
    for old, new, same in (
        ("# Nearly half", "# Almost half", True),
        ("two or \\\nthree", "one or \\\nthree", False),
    ):

        def changed(file, old=old, new=new):
            said = text(file)
            assert file.name != "synthetic_pairs.py" or old in said
            return said.replace(old, new)

        monkeypatch.setattr(fingerprint, "_text", changed)
        fingerprint._behind.cache_clear()
        assert (make.version(synthetic_pairs) == before) is same


def test_the_embedded_set_goes_through_the_same_check():
    pairs = corpus("value_gap").head(30).assign(answered=True, dropped="")
    pairs.loc[0, "dropped"] = "equal replies"
    judged = synthetic_pairs.judge_sides(pairs, Judge())
    opens = pairs["chosen"].str.startswith("Yes") & pairs["rejected"].str.startswith("No")
    assert judged["dropped"].eq("").equals(opens & (pairs.index > 0))
    assert judged["dropped"][0] == "equal replies" and pd.isna(judged["chosen_label"][0])
    table = yield_table(judged).set_index("topic")
    assert table.loc["all", "kept"] == opens[1:].sum() and table.loc["all", "asked"] == 30


SEPARATED = "I agree.\u2028Really\x85so\x0c\u2029."
REPLIES = {
    "in parts": ([{"type": "text", "text": "I agree"}, {"text": " with it."}], "I agree with it."),
    "after thoughts": ("<think>\nI agree?\n</think>\n\nI agree.", "I agree."),
    "after a thinking part": ([{"type": "thinking", "thinking": "Hm."}, "I agree."], "I agree."),
    "with an end token": ("I agree.<|im_end|>", "I agree."),
    "with separators": (SEPARATED, SEPARATED),
    "with half a character": ("I agree \ud83d.", "I agree ?."),
}


@pytest.mark.parametrize(("said", "reply"), REPLIES.values(), ids=REPLIES)
def test_replies_in_every_shape_are_read_and_kept(server, said, reply):
    server.plan = {1: saying(said)}
    for _ in range(2):
        found = writer(server).ask(ASKED.head(1))
        assert found["response"].tolist() == [reply] and found["failure"].tolist() == [""]
    assert len(server.requests) == 1


def test_what_is_empty_cut_or_withheld_is_said_and_paid_once(server):
    cut = [("  ", "stop"), ("I agree but", "length"), (None, "content_filter")]
    cut += [("<think>I might agree", "length"), ("<think>I might not", "stop")]
    server.plan = {number: saying(*said) for number, said in enumerate(cut, 1)}
    for _ in range(2):
        found = writer(server).ask(ASKED)
        reasons = ["empty", "length", "content_filter", "length", "empty", ""]
        assert found["failure"].tolist() == reasons
        assert found["prompt_tokens"].tolist() == [100.0] * 6
    assert len(server.requests) == 6


def test_what_is_no_reply_is_asked_again(server):
    server.plan = {1: saying(5), 2: saying({"text": "I agree."})}
    found = writer(server, retries=3).ask(ASKED.head(1))
    assert found["response"].tolist() == ["I agree 3."] and len(server.requests) == 3


def test_finished_work_needs_neither_server_nor_key(server, monkeypatch):
    found = writer(server).ask(ASKED)
    monkeypatch.delenv("OPENAI_API_KEY")
    url, server.always = server.url, 500
    assert writer(server, base_url=url).ask(ASKED).equals(found)
    with pytest.raises(ServerError, match="OPENAI_API_KEY"):
        writer(server, base_url=OPENAI).ask(ASKED)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "changed", [{"temperature": 0.1}, {"top_p": 0.5}, {"sends_seed": False}], ids=str
)
def test_other_sampling_asks_anew_and_other_prices_do_not(server, changed):
    writer(server).ask(ASKED.head(1))
    writer(server, price_in=1.0, timeout=9.0).ask(ASKED.head(1))
    assert len(server.requests) == 1
    writer(server, **changed).ask(ASKED.head(1))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "OPENAI_API_KEY"),
        (404, "no model 'writer'"),
        (429, "max_in_flight"),
        (("model", "writer-mini"), "asked for the model writer, but writer-mini answered"),
    ],
    ids=str,
)
def test_errors_stop_at_once_in_one_line_without_the_key(server, status, said):
    # as long as it takes a slow machine to call off the other requests
    server.always, server.latency = status, 0.1
    with pytest.raises(ServerError, match=said) as caught:
        writer(server).ask(ASKED)
    assert len(server.requests) < len(ASKED) and server.url in str(caught.value)
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_two_processes_at_once_ask_nothing_twice(server):
    server.latency = 0.1
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_synthetic_pairs as t\n"
        "class At: url = sys.argv[1]\n"
        "print(t.writer(At, max_in_flight=2).ask(t.ASKED)['response'].ne('').sum())"
    )
    command = [sys.executable, "-c", code, server.url]
    how = {"cwd": paths.ROOT, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, **how) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == [b"6", b"6"]
    assert len(server.requests) == 6
