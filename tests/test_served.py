"""Models behind a server as a series: asked like any other, known by their replies alone."""

import pytest
import yaml

from vd import paths
from vd.data.probes import load_probes
from vd.evaluations.run import evaluate_run
from vd.probing import probe, sampling
from vd.store.files import read_json
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.training.train import train_run

RUN = "tiny-llama/sold/seed-0"


def study_of(place, server, more=None, **keys):
    asked = {"base_url": server.url, "retries": 1, "max_in_flight": 4} | keys
    series = {"method": "served", "checkpoints": {0: "old", 1: "new"}, "server": asked}
    sft = {"sold": series, **(more or {})}
    content = {
        "seeds": [0],
        "models": {"tiny-llama": {"source": "random:llama", "dtype": "float32"}},
        "sft": sft,
        "probing": {"per_topic": 1, "samples": 2, "max_new_tokens": 8},
        "evaluations": {"held_out": {}, "style": {}, "kl": {}},
    }
    (place / "configs" / "sold.yaml").write_text(yaml.safe_dump(content))
    return load_study("sold")


def answer(number, request):
    """Every model, prompt and seed has a reply of its own; one prompt is not answered."""
    asked = request["messages"][0]["content"]
    return ("say", f"{request['model']} {request['seed']}: {asked[:20]}")


def test_a_series_behind_a_server_is_asked_once_and_known_by_its_replies(place, server):
    server.fault = answer
    study = study_of(place, server)
    run = study.run(RUN)
    assert [folder.name for folder in train_run(run)] == ["checkpoint-0", "checkpoint-1"]
    table, n = probe.probe_run(study, run), len(load_probes(study.probing))
    assert list(table) == sampling.COLUMNS and len(table) == 2 * 2 * n == len(server.requests)
    row = table[(table["step"] == 1) & (table["sample"] == 1)].iloc[0]
    assert row["response"] == f"new 1: {row['prompt'][:20]}".strip()
    assert set(table["finish_reason"]) == {"stop"} and (table["n_tokens"] == 1).all()
    assert probe.logits_run(study, run)["log_odds"].isna().all()
    measured = evaluate_run(study, run)
    assert (measured.query("evaluation != 'style'")["n"] == 0).all()
    assert (measured.query("evaluation == 'style'")["n"] > 0).any()
    record = read_json(paths.record("sold", RUN, "train"))
    assert record["revisions"] == {"0": "old", "1": "new"} and record["weights"] == {}
    before = len(server.requests)
    for file in paths.run("sold", RUN).rglob("responses.*"):
        file.unlink()
    assert probe.probe_run(study, run).equals(table) and len(server.requests) == before


def test_a_server_that_knows_no_seed_is_asked_for_every_sample(place, server):
    said = iter(f"answer {i}" for i in range(1000))
    server.fault = lambda number, request: ("say", next(said))
    study = study_of(place, server, sends_seed=False)
    train_run(study.run(RUN))
    table = probe.probe_run(study, study.run(RUN))
    assert table["response"].nunique() == len(table) and "seed" not in server.requests[-1]


def test_what_is_rejected_is_an_empty_reply_and_a_budget_ends_the_job(place, server):
    server.fault = lambda number, request: 400 if number == 3 else answer(number, request)
    study = study_of(place, server, max_in_flight=1)
    train_run(study.run(RUN))
    table = probe.probe_run(study, study.run(RUN))
    assert (table["response"] == "").sum() == 1
    poor = study_of(place, server, budget_calls=1)
    train_run(poor.run(RUN))
    for file in paths.run("sold", RUN).rglob("responses.*"):
        file.unlink()
    with pytest.raises(Exception, match="raise budget_calls or budget_dollars"):
        probe.probe_run(poor, poor.run(RUN))


def test_no_run_goes_on_from_a_server(place, server):
    sft = {"data": "sft_support", "steps": 1, "save_every": 1, "learning_rate": 1.0e-3}
    study = study_of(place, server, more={"more": sft | {"parent": "sold", "examples": 8}})
    train_run(study.run(RUN))
    with pytest.raises(ValueError, match="is more than weights, and .* cannot go on from it"):
        train_run(study.run("tiny-llama/sold/more/seed-0"))


def test_a_key_in_a_study_is_refused(place, server):
    with pytest.raises(StudyError, match="api_key"):
        study_of(place, server, api_key="sk-1")
