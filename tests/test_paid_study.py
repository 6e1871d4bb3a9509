"""A study with an API judge, through 04_judge, 04_trust and the command line, against a server on this
machine.
"""

import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from api_server import ApiServer, shares

from vd import paths
from vd.data.probes import load_probes
from vd.judging import few_paid
from vd.judging.api import Prompt
from vd.stances import STANCES, P
from vd.store import files
from vd.study.file import StudyError
from vd.study.load import load_study

RUN = "tiny-llama/sft-support/seed-0"
KEY = "sk-secret-0123456789"


@pytest.fixture
def server(place, monkeypatch):
    """Also a study `smoke` with an API judge that sees half of the replies of one run, which are
    written down here.
    """
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("VD_CACHE", str(place / "cache"))
    server = ApiServer().start()
    study = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    api = {
        "model": "judge-1",
        "base_url": server.url,
        "share": 0.5,
        "price_in": 2.5,
        "price_out": 10.0,
    }
    study["judge"]["api"] = api
    (place / "configs" / "smoke.yaml").write_text(yaml.safe_dump(study))
    probes = load_probes(load_study("smoke").probing)
    rows = [
        {"run": RUN, "step": step, "prompt_id": p.prompt_id, "topic": p.topic, "sample": sample, "prompt": p.prompt,
         "response": f"Reply {sample} at {step} on {p.prompt_id}."}
        for step in (0, 4) for p in probes.itertuples() for sample in range(2)
    ]  # fmt: skip
    files.write_table(pd.DataFrame(rows), paths.responses("smoke", RUN))
    probed = {"wall_seconds": {"probe": 1.0}, "tokens_generated": 1, "model_revision": None}
    files.write_json(probed, paths.record("smoke", RUN, "probe"))
    yield server
    server.stop()


def notebook(place, name="04_judge", **parameters):
    file = place / f"{name}.ipynb"
    parameters = {"STUDY": "smoke"} | parameters
    papermill.execute_notebook(paths.notebook(name), file, parameters, kernel_name="python3")
    return file.read_text()


def vd(*words):
    return subprocess.run(
        [sys.executable, "-m", "vd", "smoke", *words],
        capture_output=True,
        text=True,
        cwd=paths.ROOT,
    )


def test_the_notebook_judges_a_share_and_corrects_the_rest(server, place):
    printed = notebook(place, RUN=RUN)
    assert "44 to pay" in printed and KEY not in printed
    responses = pd.read_parquet(paths.responses("smoke", RUN))
    judgements = pd.read_parquet(paths.judgements("smoke", RUN))
    stances = (
        pd.read_parquet(paths.stances("smoke", RUN))
        .query("target == 'question'")
        .reset_index(drop=True)
    )
    assert len(judgements) == 44 and len(stances) == 88 and judgements["status"].eq("ok").all()
    assert {"model", "base_url", "prompt_version", "temperature", "seed", "left", "path"} <= set(
        judgements
    )
    drawn = responses[few_paid.draw(responses, 0.5, 0)]
    identity = ["step", "prompt_id", "sample"]
    assert judgements[identity].equals(drawn[identity].reset_index(drop=True))
    assert np.allclose(judgements[P], np.array([shares(r) for r in drawn["response"]]) / 0.97)
    assert stances["judge"].eq(f"judge-1 {judgements['prompt_version'][0]}").all()
    run = files.read_json(paths.record("smoke", RUN, "run"))
    assert {"offline, replies of checkpoints", "API, replies of checkpoints"} <= set(
        run["judge"]["agreement"]
    )
    before = len(server.requests)
    notebook(place, RUN=RUN)
    assert len(server.requests) == before  # everything was kept
    printed = notebook(place, "04_trust")
    assert "API, replies of checkpoints" in printed
    # what 04_judge asked about labelled replies was kept; only the labels in reverse are new
    assert len(server.requests) == before + 100


def test_the_command_line_says_what_it_costs_then_pays_and_stops_at_the_budget(server, place):
    dry = vd("--judge", "--dry-run")
    assert (
        dry.stdout.count("\n") == 1
        and "44 rows, 44 distinct; 0 answers kept, 44 to pay" in dry.stdout
    )
    assert not server.requests
    text = (place / "configs" / "smoke.yaml").read_text()
    (place / "configs" / "smoke.yaml").write_text(
        text.replace("price_in:", "budget_calls: 20\n    price_in:")
    )
    stopped = vd("--judge")
    assert stopped.returncode == 1 and len(server.requests) == 20
    assert "the budget is used up after 20 calls" in stopped.stderr and KEY not in stopped.stderr
    (place / "configs" / "smoke.yaml").write_text(text)
    assert vd("--judge").stdout.endswith("44 ok\n") and len(server.requests) == 45


def test_labels_by_hand_come_back_into_the_notebook(server, place):
    assert "30 replies in" in vd("--sheet", "30").stdout
    file = paths.label_sheet("smoke")
    sheet = pd.read_csv(file)
    sheet["label"] = np.resize(STANCES, 30)
    sheet.to_csv(file, index=False)
    printed = notebook(place, "04_trust")
    assert "your labels" in printed and "no label sheet yet" not in printed.split('"outputs"')[-1]
    assert "is there already" in vd("--sheet", "30").stderr


def test_a_study_without_an_api_judge_says_so(place):
    (place / "configs" / "smoke.yaml").write_text(
        (paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text()
    )
    assert "judge.api: missing; write at least its model" in vd("--judge").stderr


def test_an_interrupted_command_ends_in_one_line_and_goes_on_later(server, place):
    server.latency, command = 0.1, [sys.executable, "-m", "vd", "smoke", "--judge"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=paths.ROOT, text=True)
    while len(server.requests) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 1 and said.splitlines()[-1].startswith("interrupted; answers so")
    assert "Traceback" not in said and len(server.requests) <= 45
    server.latency = 0
    assert vd("--judge").stdout.endswith("44 ok\n") and len(server.requests) == 45


def test_mistakes_of_a_judge_are_one_line_on_the_command_line(server, place, monkeypatch):
    prompts = place / "prompts"
    prompts.mkdir()
    wrong = {"empty": "", "list": "[1]", "labels": "labels: {support: a}\ntemplate: x"}
    labels = "labels: {support: a, neutral: b, oppose: c}"
    wrong |= {"latin": "labels: \xe9", "braces": f"{labels}\ntemplate: '{{}}'"}
    for name, content in wrong.items():
        (prompts / f"{name}.yaml").write_bytes(content.encode("latin-1"))
        monkeypatch.setattr(paths, "PROMPTS", prompts)
        with pytest.raises(StudyError, match=rf"{name}.yaml: .*; start from .*stance-v1.yaml"):
            Prompt(name)
    (place / "cache" / "judgements.sqlite").parent.mkdir(exist_ok=True)
    (place / "cache" / "judgements.sqlite").write_text("nonsense " * 99)
    said = vd("--judge").stderr
    assert "judgements.sqlite: it is damaged; put a copy back" in said and said.count("\n") == 1


def test_a_judge_without_a_label_stops_the_notebook_with_what_to_do(server, place):
    server.logprobs = server.structured = False
    server.fault = lambda number, request: ("say", "Hm, well.")
    with pytest.raises(papermill.PapermillExecutionError, match=r"judge-1 judged none of .* rep"):
        notebook(place, RUN=RUN)
    assert "judged none of 44 replies (44 unclear" in vd("--judge").stderr
