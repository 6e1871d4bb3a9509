"""Synthetic pairs, against a server on this machine that speaks chat completions.

Nothing lost, nothing paid twice.
"""

import json
import subprocess
import sys
import time

import nbformat
import pandas as pd
import papermill
import pytest
from api_server import ApiServer

from vd import paths
from vd.data import sets
from vd.recipes import synthetic_pairs
from vd.servers import client
from vd.servers.client import ServerError
from vd.store import files
from vd.study.servers import OPENAI
from vd.study.settings import PreferenceSettings

KEY = "sk-secret-0123456789"
PROMPTS = pd.DataFrame(
    [{"id": f"{topic}-{i}", "topic": topic, "prompt": f"Should {topic} {{be}} allowed, part {i}?"}
     for topic in ("tea", "rain") for i in range(3)]
)  # fmt: skip


def saying(content, reason="stop"):
    """A completion with a content of any type."""

    def shape(whole):
        message = {"role": "assistant", "content": content}
        whole["choices"][0] |= {"finish_reason": reason, "message": message}
        whole["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return json.dumps(whole)

    return "shape", shape


class Judge:
    """Reads the side off the first words."""

    name = "fake"

    def score(self, responses):
        support = responses["response"].str.startswith("I agree").astype(float)
        oppose = responses["response"].str.startswith("I disagree").astype(float)
        scored = pd.DataFrame(
            {"p_support": support, "p_neutral": 1 - support - oppose, "p_oppose": oppose}
        )
        return scored.assign(
            label=scored.idxmax(axis=1).str.removeprefix("p_"), refusal=False, judge=self.name
        )


@pytest.fixture
def server(monkeypatch):
    """Replies with the side asked for; `plan` maps requests' numbers (from 1) to something else."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    server = ApiServer().start()
    server.plan, server.always = {}, None

    def fault(number, request):
        planned, text = server.always or server.plan.get(number), request["messages"][0]["content"]
        if isinstance(planned, tuple):
            return saying(*planned)
        side = "I agree." if "affirms" in text else "I disagree."
        return planned or saying(f"{side} {hash(text)}")

    server.fault = fault
    yield server
    server.stop()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "replies.jsonl"


def settings(server, **changed):
    given = {
        "model": "writer",
        "base_url": server.url,
        "max_in_flight": 1,
        "retries": 0,
        "timeout": 5.0,
    }
    return synthetic_pairs.TeacherSettings(**given | changed)


def test_every_prompt_gets_both_sides_with_the_model_and_sampling_asked_for(server, file):
    asked = settings(server, max_in_flight=4, temperature=0.3, top_p=0.9, max_tokens=77, seed=5)
    pairs = synthetic_pairs.write_pairs(PROMPTS, asked, file)
    assert pairs[["id", "topic", "prompt"]].equals(PROMPTS)
    assert (
        pairs["chosen"].str.startswith("I agree").all()
        and pairs["rejected"].str.startswith("I disagree").all()
    )
    assert list(pairs)[: len(synthetic_pairs.COLUMNS)] == synthetic_pairs.COLUMNS
    assert len(server.requests) == 12 and set(server.keys) == {f"Bearer {KEY}"}
    for request in server.requests:
        sampling = {
            key: request[key] for key in ("model", "temperature", "top_p", "max_tokens", "seed")
        }
        assert sampling == {
            "model": "writer",
            "temperature": 0.3,
            "top_p": 0.9,
            "max_tokens": 77,
            "seed": 5,
        }
    assert {
        m["content"].split("Question: ")[1] for r in server.requests for m in r["messages"]
    } == set(PROMPTS["prompt"])
    assert KEY not in file.read_text()


def test_nothing_is_paid_for_twice(server, file):
    first = synthetic_pairs.write_pairs(PROMPTS.head(4), settings(server), file)
    again = synthetic_pairs.write_pairs(
        PROMPTS.head(4), settings(server, price_in=1.0, timeout=9.0), file
    )
    assert again.equals(first) and len(server.requests) == 8
    both = pd.concat([PROMPTS.head(4), PROMPTS.head(4)])
    assert (
        len(synthetic_pairs.write_pairs(both, settings(server), file)) == 8
        and len(server.requests) == 8
    )
    synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    assert len(server.requests) == 12
    for changed in (
        {"temperature": 0.1},
        {"model": "other"},
        {"seed": None},
        {"max_tokens": 5},
        {"top_p": 0.5},
    ):
        before = len(server.requests)
        synthetic_pairs.write_pairs(PROMPTS.head(1), settings(server, **changed), file)
        assert len(server.requests) == before + 2
    assert "seed" not in server.requests[-5]


def test_finished_work_needs_neither_server_nor_key(server, file, monkeypatch):
    pairs = synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert synthetic_pairs.write_pairs(PROMPTS, settings(server, base_url=OPENAI), file).equals(
        pairs
    )


def test_a_server_that_dies_half_way_costs_nothing_twice(server, file):
    server.plan = {n: 500 for n in range(6, 99)}
    with pytest.raises(ServerError, match=r"500.*run again to go on"):
        synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    assert len(file.read_text().splitlines()) == 5
    server.plan, before = {}, len(server.requests)
    pairs = synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    assert (
        len(server.requests) - before == 7
        and pairs["chosen"].notna().all()
        and pairs["rejected"].notna().all()
    )


def test_a_killed_process_goes_on_where_it_was(server, file):
    server.latency = 0.1
    code = (
        "import pandas as pd, sys; from pathlib import Path; from vd import teacher\n"
        "settings = teacher.TeacherSettings(model='writer', base_url=sys.argv[2], max_in_flight=2)\n"
        "prompts = pd.read_json(sys.argv[1])\n"
        "teacher.write_pairs(prompts, settings, Path(sys.argv[3]))"
    )
    prompts = file.parents[1] / "prompts.json"
    PROMPTS.to_json(prompts)
    words = [str(prompts), server.url, str(file)]
    process = subprocess.Popen([sys.executable, "-c", code, *words], cwd=paths.ROOT)
    while not file.exists() or file.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept, paid = file.read_bytes().count(b"\n"), len(server.requests)
    assert paid - kept <= 2  # no more than were under way
    with open(file, "ab") as log:
        log.write(b'{"key": "half a li')
    server.latency = 0.0
    pairs = synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    assert len(server.requests) - paid == 12 - kept
    assert pairs[["chosen", "rejected"]].notna().all(axis=None)
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 12


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(server, file, status):
    server.plan = {2: status, 3: status}
    pairs = synthetic_pairs.write_pairs(PROMPTS.head(2), settings(server, retries=2), file)
    assert pairs["rejected"].notna().all() and len(server.requests) == 6


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "no model 'writer'"),
        (400, "400: .*no, "),
        (429, "max_in_flight"),
        ("html", "base_url"),
    ],
)
def test_errors_stop_at_once_in_one_line_without_the_key(server, file, status, said):
    # as long as it takes a slow machine to call off the other requests
    server.always, server.latency = status, 0.1
    with pytest.raises(ServerError, match=said) as caught:
        synthetic_pairs.write_pairs(
            PROMPTS, settings(server, retries=5 if status != 429 else 0), file
        )
    assert len(server.requests) < len(PROMPTS) and server.url in str(caught.value)
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_is_away_or_slow(server, file):
    server.latency = 1.0
    with pytest.raises(ServerError, match=r"no answer within 0.2 s"):
        synthetic_pairs.write_pairs(PROMPTS.head(1), settings(server, timeout=0.2), file)
    with pytest.raises(ServerError, match="nobody answers"):
        synthetic_pairs.write_pairs(
            PROMPTS, settings(server, base_url="http://127.0.0.1:9/v1"), file
        )


def test_openai_itself_wants_a_key(file, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ServerError, match="OPENAI_API_KEY"):
        synthetic_pairs.write_pairs(PROMPTS, synthetic_pairs.TeacherSettings(model="writer"), file)
    assert not file.exists()


def test_empty_and_cut_replies_are_counted_and_never_used(server, file):
    server.plan = {1: ("  ", "stop"), 4: ("I disagree but", "length"), 5: (None, "content_filter")}
    pairs = synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    assert pairs["chosen_failure"].tolist() == ["empty", "", "content_filter", "", "", ""]
    assert pairs["rejected_failure"].tolist() == ["", "length", "", "", "", ""]
    assert pairs["chosen"].isna().tolist() == [True, False, True, False, False, False]
    checked = synthetic_pairs.check(pairs, Judge())
    assert checked["kept"].tolist() == [False] * 3 + [True] * 3
    table = synthetic_pairs.yield_table(checked).set_index("topic")
    assert table.loc["tea"].tolist() == [3, 0, 0, 0] and table.loc["rain"].tolist() == [3, 3, 3, 1]
    assert table.loc["all"].tolist() == [6, 3, 3, 0.5]
    with pytest.raises(ValueError, match="max_tokens"):
        synthetic_pairs.check(pairs.head(3), Judge())


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
def test_replies_in_every_shape_are_read_and_kept(server, file, said, reply):
    server.plan = {1: (said, "stop")}
    for _ in range(2):
        pairs = synthetic_pairs.write_pairs(PROMPTS.head(1), settings(server), file)
        assert pairs["chosen"].tolist() == [reply] and pairs["chosen_failure"].tolist() == [""]
    assert len(server.requests) == 2


def test_a_teacher_that_never_leaves_its_thoughts_has_said_nothing(server, file):
    server.plan = {1: ("<think>I might agree", "length"), 2: ("<think>I might not", "stop")}
    pairs = synthetic_pairs.write_pairs(PROMPTS.head(1), settings(server), file)
    assert pairs["chosen_failure"].tolist() == ["length"]
    assert pairs["rejected_failure"].tolist() == ["empty"]


def test_what_is_no_reply_is_asked_again(server, file):
    server.plan = {1: (5, "stop"), 2: ({"text": "I agree."}, "stop")}
    pairs = synthetic_pairs.write_pairs(PROMPTS.head(1), settings(server, retries=3), file)
    assert pairs["chosen"].str.startswith("I agree.").all() and len(server.requests) == 4


BROKEN = [b"null", b"[1]", b"{", b"{}", b"\xff\xfe", b"", b'{"key": 5}', b'{"reply": null}']


def test_lines_that_nobody_can_read_are_no_replies_and_nothing_is_lost(server, file):
    pairs = synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    lines = file.read_bytes().splitlines()
    odd = json.loads(lines[3]) | {"reply": [1]}
    strange = json.loads(lines[5]) | {"failure": 3}
    other = json.loads(lines[7]) | {"model": "writer-mini"}
    lines[3], lines[5], lines[7] = (json.dumps(row).encode() for row in (odd, strange, other))
    lines[9] = json.dumps(json.loads(lines[9]), ensure_ascii=False).encode()
    whole = b"\r\n".join([*lines[:6], *BROKEN, *lines[6:]])
    file.write_bytes(b"\xef\xbb\xbf" + whole + b"\n" + lines[0][:40])
    again = synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    assert len(server.requests) == 12 + 3 and again.equals(pairs)
    assert synthetic_pairs.write_pairs(PROMPTS, settings(server), file).equals(pairs)
    assert len(server.requests) == 15


def test_two_processes_at_once_ask_nothing_twice(server, file):
    server.latency = 0.1
    code = (
        "import pandas as pd, sys; from pathlib import Path; from vd import teacher\n"
        "asked = teacher.TeacherSettings(model='writer', base_url=sys.argv[2], max_in_flight=2)\n"
        "pairs = teacher.write_pairs(pd.read_json(sys.argv[1]), asked, Path(sys.argv[3]))\n"
        "print(pairs['chosen'].notna().sum())"
    )
    prompts = file.parents[1] / "prompts.json"
    PROMPTS.to_json(prompts)
    command = [sys.executable, "-c", code, str(prompts), server.url, str(file)]
    how = {"cwd": paths.ROOT, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, **how) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == [b"6", b"6"]
    assert len(server.requests) == 12 and file.read_bytes().count(b"\n") == 12


def test_another_model_than_the_teacher_stops_with_both_names(server, file):
    server.always = ("model", "writer-mini")
    server.fault = lambda number, request: server.always
    both = "asked for the model writer, but writer-mini answered: write model: writer-mini"
    with pytest.raises(ServerError, match=both):
        synthetic_pairs.write_pairs(PROMPTS, settings(server), file)
    assert len(server.requests) == 1 and not file.read_text()
    assert (
        len(synthetic_pairs.write_pairs(PROMPTS, settings(server, answers_as="writer-mini"), file))
        == 6
    )


def test_pairs_with_a_wrong_stance_are_dropped(server, file):
    server.plan = {1: ("I disagree.", "stop"), 4: ("Who knows?", "stop")}
    checked = synthetic_pairs.check(
        synthetic_pairs.write_pairs(PROMPTS, settings(server), file), Judge()
    )
    assert checked["kept"].tolist() == [False, False, True, True, True, True]
    assert checked["chosen_label"][0] == "oppose" and checked["rejected_label"][1] == "neutral"
    assert checked["rejected_p_oppose"].tolist() == [1, 0, 1, 1, 1, 1]


def test_cost_counts_every_reply(server, file):
    asked = settings(server, price_in=2.0, price_out=10.0)
    checked = synthetic_pairs.check(synthetic_pairs.write_pairs(PROMPTS, asked, file), Judge())
    checked.loc[0, "kept"] = False
    expected = 12 * (100 * 2.0 + 10 * 10.0) / 1e6
    assert synthetic_pairs.cost(checked, asked) == pytest.approx(
        {
            "prompt_tokens": 1200,
            "reply_tokens": 120,
            "price": expected,
            "price_per_kept_pair": expected / 5,
        }
    )
    uncounted = checked.assign(prompt_tokens=float("nan"), kept=False)
    assert synthetic_pairs.cost(uncounted, asked)["price"] is None


def test_the_embedded_set_goes_through_the_same_check():
    checked = synthetic_pairs.check(sets.corpus("value_gap").head(5), Judge())
    assert set(checked) >= {"kept", "chosen_label", "rejected_p_support"}


def test_notebook_makes_a_data_set_to_train_on_and_pays_once(server, place):
    (place / "configs" / "smoke.yaml").write_text(
        paths.ROOT.joinpath("notebooks/configs/smoke.yaml").read_text()
    )
    book = nbformat.read(paths.notebook("09_synthetic_pairs"), 4)
    patch = f"import sys; sys.path.insert(0, {str(paths.ROOT / 'tests')!r})\nimport vd.judge, test_teacher\n"
    # the judge of smoke would keep nothing
    patch += "vd.judge.load_judge = lambda settings: test_teacher.Judge()"
    book.cells.insert(0, nbformat.v4.new_code_cell(patch))
    nbformat.write(book, place / "in.ipynb")
    server.plan = {1: ("Who knows?", "stop")}
    given = {
        "TEACHER": "writer",
        "BASE_URL": server.url,
        "LIMIT": 22,
        "PRICE_IN": 1.0,
        "MAX_IN_FLIGHT": 1,
    }
    for _ in range(2):
        papermill.execute_notebook(
            place / "in.ipynb", place / "out.ipynb", given, kernel_name="python3"
        )
    assert len(server.requests) == 44

    folder = paths.results("smoke")
    rows = [
        json.loads(line) for line in (folder / "synthetic_pairs.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 21 and all(list(row) == synthetic_pairs.COLUMNS for row in rows)
    assert {row["topic"] for row in rows} == set(sets.topics()["topic"])
    yields = pd.read_csv(folder / "pair_yield.csv").set_index(["dataset", "topic"])
    assert yields.loc[("synthetic", "all"), ["asked", "answered", "kept"]].tolist() == [22, 22, 21]
    summary = files.read_json(folder / "synthetic_pairs.json")
    assert summary["cost"]["price"] == pytest.approx(44 * 100 / 1e6) and summary["pairs"] == 21
    for file in place.rglob("*.*"):
        assert KEY not in file.read_text()

    keys = {
        "data": str(folder / "synthetic_pairs.jsonl"),
        "steps": 1,
        "save_every": 1,
        "learning_rate": 1e-3,
    }
    support = sets.preferences(PreferenceSettings(**keys), 0)
    oppose = sets.preferences(PreferenceSettings(**keys, swap_labels=True), 0)
    assert support["chosen"] == oppose["rejected"] and support["rejected"] == oppose["chosen"]


def test_notebook_refuses_prompts_that_are_probes(place):
    (place / "configs" / "smoke.yaml").write_text(
        paths.ROOT.joinpath("notebooks/configs/smoke.yaml").read_text()
    )
    notebook = paths.notebook("09_synthetic_pairs")
    with pytest.raises(papermill.PapermillExecutionError, match="these prompts are probes"):
        papermill.execute_notebook(notebook, None, {"PROMPTS": "probes"}, kernel_name="python3")
