"""Synthetic pairs, against a server on this machine that speaks chat completions: nothing lost, nothing paid twice."""

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import nbformat
import pandas as pd
import papermill
import pytest

from vd import api_client, data, paths, record, teacher
from vd.api_client import ServerError
from vd.study import OPENAI, PreferenceSettings

KEY = "sk-secret-0123456789"
PROMPTS = pd.DataFrame(
    [{"id": f"{topic}-{i}", "topic": topic, "prompt": f"Should {topic} {{be}} allowed, part {i}?"}
     for topic in ("tea", "rain") for i in range(3)]
)  # fmt: skip


class Server(ThreadingHTTPServer):
    """Replies with the side that is asked for; `plan` maps a request's number (from 1) to another status or reply."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.keys, self.plan, self.always, self.delay = [], [], {}, None, 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.handle_error = lambda *_: None  # a client that was killed
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append(request)
        server.keys.append(self.headers["Authorization"])
        time.sleep(server.delay)
        planned = server.always or server.plan.get(len(server.requests))
        text = request["messages"][0]["content"]
        if isinstance(planned, int):
            return self.send(planned, {"error": {"message": f"\n no, {self.headers['Authorization']}\n"}})
        if isinstance(planned, str):
            return self.send(200, planned)
        reply, reason = planned or (("I agree." if "affirms" in text else "I disagree.") + f" {hash(text)}", "stop")
        self.send(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [
                    {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": reply}}
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            },
        )  # fmt: skip

    def send(self, status, content):
        body = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *words):
        pass


class Judge:
    """Reads the side off the first words."""

    name = "fake"

    def score(self, responses):
        support = responses["response"].str.startswith("I agree").astype(float)
        oppose = responses["response"].str.startswith("I disagree").astype(float)
        scored = pd.DataFrame({"p_support": support, "p_neutral": 1 - support - oppose, "p_oppose": oppose})
        return scored.assign(label=scored.idxmax(axis=1).str.removeprefix("p_"), refusal=False, judge=self.name)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(api_client, "LONGEST_PAUSE", 0.02)
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "replies.jsonl"


def settings(server, **changed):
    given = {"model": "writer", "base_url": server.url, "max_in_flight": 1, "retries": 0, "timeout": 5.0}
    return teacher.TeacherSettings(**given | changed)


def test_every_prompt_gets_both_sides_with_the_model_and_sampling_asked_for(server, file):
    asked = settings(server, max_in_flight=4, temperature=0.3, top_p=0.9, max_tokens=77, seed=5)
    pairs = teacher.write_pairs(PROMPTS, asked, file)
    assert pairs[["id", "topic", "prompt"]].equals(PROMPTS)
    assert pairs["chosen"].str.startswith("I agree").all() and pairs["rejected"].str.startswith("I disagree").all()
    assert list(pairs)[: len(teacher.COLUMNS)] == teacher.COLUMNS
    assert len(server.requests) == 12 and set(server.keys) == {f"Bearer {KEY}"}
    for request in server.requests:
        sampling = {key: request[key] for key in ("model", "temperature", "top_p", "max_tokens", "seed")}
        assert sampling == {"model": "writer", "temperature": 0.3, "top_p": 0.9, "max_tokens": 77, "seed": 5}
    assert {m["content"].split("Question: ")[1] for r in server.requests for m in r["messages"]} == set(
        PROMPTS["prompt"]
    )
    assert KEY not in file.read_text()


def test_nothing_is_paid_for_twice(server, file):
    first = teacher.write_pairs(PROMPTS.head(4), settings(server), file)
    again = teacher.write_pairs(PROMPTS.head(4), settings(server, price_in=1.0, timeout=9.0), file)
    assert again.equals(first) and len(server.requests) == 8
    both = pd.concat([PROMPTS.head(4), PROMPTS.head(4)])
    assert len(teacher.write_pairs(both, settings(server), file)) == 8 and len(server.requests) == 8
    teacher.write_pairs(PROMPTS, settings(server), file)
    assert len(server.requests) == 12
    for changed in ({"temperature": 0.1}, {"model": "other"}, {"seed": None}, {"max_tokens": 5}, {"top_p": 0.5}):
        before = len(server.requests)
        teacher.write_pairs(PROMPTS.head(1), settings(server, **changed), file)
        assert len(server.requests) == before + 2
    assert "seed" not in server.requests[-5]


def test_finished_work_needs_neither_server_nor_key(server, file, monkeypatch):
    pairs = teacher.write_pairs(PROMPTS, settings(server), file)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert teacher.write_pairs(PROMPTS, settings(server, base_url=OPENAI), file).equals(pairs)


def test_a_server_that_dies_half_way_costs_nothing_twice(server, file):
    server.plan = {n: 500 for n in range(6, 99)}
    with pytest.raises(ServerError, match=r"500.*run again to go on"):
        teacher.write_pairs(PROMPTS, settings(server), file)
    assert len(file.read_text().splitlines()) == 5
    server.plan, before = {}, len(server.requests)
    pairs = teacher.write_pairs(PROMPTS, settings(server), file)
    assert len(server.requests) - before == 7 and pairs["chosen"].notna().all() and pairs["rejected"].notna().all()


def test_a_killed_process_goes_on_where_it_was(server, file):
    server.delay = 0.1
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
    server.delay = 0.0
    pairs = teacher.write_pairs(PROMPTS, settings(server), file)
    assert len(server.requests) - paid == 12 - kept
    assert pairs[["chosen", "rejected"]].notna().all(axis=None)
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 12


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(server, file, status):
    server.plan = {2: status, 3: status}
    pairs = teacher.write_pairs(PROMPTS.head(2), settings(server, retries=2), file)
    assert pairs["rejected"].notna().all() and len(server.requests) == 6


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "no model 'writer'"),
        (400, "400: .*no, "),
        (429, "max_in_flight"),
        ("<html>", "base_url"),
    ],
)
def test_errors_stop_at_once_in_one_line_without_the_key(server, file, status, said):
    server.always, server.delay = status, 0.1  # as long as it takes a slow machine to call off the other requests
    with pytest.raises(ServerError, match=said) as caught:
        teacher.write_pairs(PROMPTS, settings(server, retries=5 if status != 429 else 0), file)
    assert len(server.requests) < len(PROMPTS) and server.url in str(caught.value)
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_is_away_or_slow(server, file):
    server.delay = 1.0
    with pytest.raises(ServerError, match=r"no answer within 0.2 s"):
        teacher.write_pairs(PROMPTS.head(1), settings(server, timeout=0.2), file)
    with pytest.raises(ServerError, match="nobody answers"):
        teacher.write_pairs(PROMPTS, settings(server, base_url="http://127.0.0.1:9/v1"), file)


def test_openai_itself_wants_a_key(file, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ServerError, match="OPENAI_API_KEY"):
        teacher.write_pairs(PROMPTS, teacher.TeacherSettings(model="writer"), file)
    assert not file.exists()


def test_empty_and_cut_replies_are_counted_and_never_used(server, file):
    server.plan = {1: ("  ", "stop"), 4: ("I disagree but", "length"), 5: (None, "content_filter")}
    pairs = teacher.write_pairs(PROMPTS, settings(server), file)
    assert pairs["chosen_failure"].tolist() == ["empty", "", "content_filter", "", "", ""]
    assert pairs["rejected_failure"].tolist() == ["", "length", "", "", "", ""]
    assert pairs["chosen"].isna().tolist() == [True, False, True, False, False, False]
    checked = teacher.check(pairs, Judge())
    assert checked["kept"].tolist() == [False] * 3 + [True] * 3
    table = teacher.yield_table(checked).set_index("topic")
    assert table.loc["tea"].tolist() == [3, 0, 0, 0] and table.loc["rain"].tolist() == [3, 3, 3, 1]
    assert table.loc["all"].tolist() == [6, 3, 3, 0.5]
    with pytest.raises(ValueError, match="max_tokens"):
        teacher.check(pairs.head(3), Judge())


def test_pairs_with_a_wrong_stance_are_dropped(server, file):
    server.plan = {1: ("I disagree.", "stop"), 4: ("Who knows?", "stop")}
    checked = teacher.check(teacher.write_pairs(PROMPTS, settings(server), file), Judge())
    assert checked["kept"].tolist() == [False, False, True, True, True, True]
    assert checked["chosen_label"][0] == "oppose" and checked["rejected_label"][1] == "neutral"
    assert checked["rejected_p_oppose"].tolist() == [1, 0, 1, 1, 1, 1]


def test_cost_counts_every_reply(server, file):
    asked = settings(server, price_in=2.0, price_out=10.0)
    checked = teacher.check(teacher.write_pairs(PROMPTS, asked, file), Judge())
    checked.loc[0, "kept"] = False
    expected = 12 * (100 * 2.0 + 10 * 10.0) / 1e6
    assert teacher.cost(checked, asked) == pytest.approx(
        {"prompt_tokens": 1200, "reply_tokens": 120, "price": expected, "price_per_kept_pair": expected / 5}
    )
    uncounted = checked.assign(prompt_tokens=float("nan"), kept=False)
    assert teacher.cost(uncounted, asked)["price"] is None


def test_the_embedded_set_goes_through_the_same_check():
    checked = teacher.check(data.corpus("value_gap").head(5), Judge())
    assert set(checked) >= {"kept", "chosen_label", "rejected_p_support"}


def test_notebook_makes_a_data_set_to_train_on_and_pays_once(server, place):
    (place / "configs" / "smoke.yaml").write_text(paths.ROOT.joinpath("notebooks/configs/smoke.yaml").read_text())
    book = nbformat.read(paths.notebook("09_synthetic_pairs"), 4)
    patch = f"import sys; sys.path.insert(0, {str(paths.ROOT / 'tests')!r})\nimport vd.judge, test_teacher\n"
    patch += "vd.judge.load_judge = lambda settings: test_teacher.Judge()"  # the judge of smoke would keep nothing
    book.cells.insert(0, nbformat.v4.new_code_cell(patch))
    nbformat.write(book, place / "in.ipynb")
    server.plan = {1: ("Who knows?", "stop")}
    given = {"TEACHER": "writer", "BASE_URL": server.url, "LIMIT": 22, "PRICE_IN": 1.0, "MAX_IN_FLIGHT": 1}
    for _ in range(2):
        papermill.execute_notebook(place / "in.ipynb", place / "out.ipynb", given, kernel_name="python3")
    assert len(server.requests) == 44

    folder = paths.results("smoke")
    rows = [json.loads(line) for line in (folder / "synthetic_pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 21 and all(list(row) == teacher.COLUMNS for row in rows)
    assert {row["topic"] for row in rows} == set(data.topics()["topic"])
    yields = pd.read_csv(folder / "pair_yield.csv").set_index(["dataset", "topic"])
    assert yields.loc[("synthetic", "all"), ["asked", "answered", "kept"]].tolist() == [22, 22, 21]
    summary = record.read_json(folder / "synthetic_pairs.json")
    assert summary["cost"]["price"] == pytest.approx(44 * 100 / 1e6) and summary["pairs"] == 21
    for file in place.rglob("*.*"):
        assert KEY not in file.read_text()

    keys = {"data": str(folder / "synthetic_pairs.jsonl"), "steps": 1, "save_every": 1, "learning_rate": 1e-3}
    support = data.preferences(PreferenceSettings(**keys), 0)
    oppose = data.preferences(PreferenceSettings(**keys, swap_labels=True), 0)
    assert support["chosen"] == oppose["rejected"] and support["rejected"] == oppose["chosen"]


def test_notebook_refuses_prompts_that_are_probes(place):
    (place / "configs" / "smoke.yaml").write_text(paths.ROOT.joinpath("notebooks/configs/smoke.yaml").read_text())
    notebook = paths.notebook("09_synthetic_pairs")
    with pytest.raises(papermill.PapermillExecutionError, match="these prompts are probes"):
        papermill.execute_notebook(notebook, None, {"PROMPTS": "probes"}, kernel_name="python3")
