"""V-PRISM's writer: what its answers say in every shape; nothing is read into what says nothing."""

import json
import sqlite3

import pandas as pd
import pytest
from api_server import BROKEN, ApiServer

from vd import paths
from vd.data.vprism import readings
from vd.servers import client
from vd.study.servers import ServerSettings
from vd.study.settings import VPrismSettings

SAID = {"value_laden": True, "on_topic": True, "question": "Are zoos bad?", "polarity": -1}
RIGHT = {"confirmed": True, "polarity": -1, "question": "Are zoos bad?"}
NOTHING = {"confirmed": False, "polarity": 0, "question": None}


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    server = ApiServer().start()
    yield server
    server.stop()


def confirm(server, n=3, **changed):
    rows = pd.DataFrame({"id": range(n), "topic": "race", "prompt": [f"zoo {i}" for i in range(n)]})
    given = {"model": "writer", "base_url": server.url, "max_in_flight": 1, "retries": 2}
    return readings.confirm(VPrismSettings(writer=ServerSettings(**given | changed)), rows)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(SAID),
        f"```json\n{json.dumps(SAID, indent=1)}\n```",
        f"Here {{it}} is: {json.dumps(SAID)} I hope {{that}} helps.",
        f"<think>{json.dumps(SAID | {'polarity': 1})}</think>{json.dumps(SAID)}",
        json.dumps({"result": SAID}),
        json.dumps(SAID | {"polarity": "-1"}),
        json.dumps(SAID | {"polarity": -1.0}),
        json.dumps(SAID | {"value_laden": "true", "on_topic": "True"}),
        json.dumps(SAID | {"question": " Are\nzoos  bad? "}),
    ],
)
def test_answers_are_read_in_every_shape(server, text):
    server.fault = lambda number, request: ("say", text)
    found = confirm(server, 1).drop(columns="confirmed_by").iloc[0].to_dict()
    assert found == RIGHT


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("polarity", value)
        for value in (
            "1e999",
            "true",
            "null",
            "0.5",
            "2",
            '"yes"',
            "[1]",
            "-1e999",
            "NaN",
            "9" * 5000,
        )
    ]
    + [("question", value) for value in ("null", "5", '""', '" "', "[]")]
    + [("value_laden", value) for value in ("false", "null", "1", '"maybe"', "[true]")],
)
def test_what_is_no_right_value_confirms_nothing_and_is_paid_for_once(server, key, value):
    parts = {name: json.dumps(part) for name, part in SAID.items()} | {key: value}
    text = "{" + ", ".join(f'"{name}": {part}' for name, part in parts.items()) + "}"
    server.fault = lambda number, request: ("say", text)
    for _ in range(2):
        assert confirm(server, 1).drop(columns="confirmed_by").iloc[0].to_dict() == NOTHING
    assert len(server.requests) == 1


def test_what_is_no_answer_is_asked_again_until_it_is_one(server):
    shapes = list(BROKEN.values())
    said = "say", json.dumps(SAID)
    server.fault = lambda number, request: ("shape", shapes[number // 2]) if number % 2 else said
    found = confirm(server, len(shapes) - 1)
    assert found["confirmed"].all() and len(server.requests) == 2 * (len(shapes) - 1)


POISON = ['{"content": 5}', "null", '{"content": [1]}', "{", '{"refusal": "x"}']


@pytest.mark.parametrize("poison", POISON)
def test_what_an_older_reader_kept_and_cannot_be_read_is_asked_again(server, poison):
    server.fault = lambda number, request: ("say", json.dumps(SAID))
    confirm(server)
    with sqlite3.connect(paths.cache() / "vprism" / "answers.sqlite") as file:
        first = "(select min(key) from answers)"
        file.execute(f"update answers set content = ? where key = {first}", (poison,))
    assert confirm(server)["confirmed"].all() and len(server.requests) == 4


def test_a_rejected_prompt_confirms_nothing_and_is_asked_again_later(server):
    said = "say", json.dumps(SAID)
    server.fault = lambda number, request: 400 if "zoo 1" in str(request) else said
    assert confirm(server)["confirmed"].tolist() == [True, False, True]
    server.fault = lambda number, request: ("say", json.dumps(SAID))
    assert confirm(server)["confirmed"].all() and len(server.requests) == 4


def test_a_writer_that_never_answers_as_asked_is_named(server):
    server.fault = lambda number, request: ("say", "I would call it value-laden.")
    with pytest.raises(
        ValueError,
        match=r"/v1: no answer of writer is as vprism-v1 asks; name another vprism.writer",
    ):
        confirm(server, 10)
    assert not confirm(server, 9)["confirmed"].any()


def test_another_model_than_the_writer_stops_with_both_names(server):
    server.fault = lambda number, request: ("model", "writer-mini")
    both = "asked for the model writer, but writer-mini answered"
    with pytest.raises(client.ServerError, match=both):
        confirm(server)
    assert len(server.requests) == 1
