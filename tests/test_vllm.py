"""Replies from a vLLM server, for which a stand-in speaks (tests/vllm_server.py)."""

import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from vd import paths
from vd.data.probes import load_probes
from vd.probing import probe, sampling, vllm
from vd.store.files import read_json
from vd.study.load import load_study
from vd.training.train import train_run

BASE, RUN = "tiny-llama/base/seed-0", "tiny-llama/sft-support/seed-0"


@pytest.fixture
def study(place, monkeypatch, request):
    """smoke by vLLM, with adapters or whole weights, its base probed and one run trained."""
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    content["probing"] |= {"engine": "vllm", "per_topic": 1, "checkpoints": "all"}
    if getattr(request, "param", "adapters") == "whole":
        for section in ("sft", "scorers", "preference"):
            for entry in content[section].values():
                entry |= {"lora": None} if entry.get("method") != "given" else {}
    (place / "configs" / "served.yaml").write_text(yaml.safe_dump(content))
    program = Path(__file__).with_name("vllm_server.py")
    monkeypatch.setenv("VD_VLLM", f"'{sys.executable}' '{program}'")
    found = load_study("served")
    probe.probe_run(found, found.run(BASE))
    train_run(found.run(RUN))
    return found


def servers():
    return [c for c in psutil.Process().children() if "vllm_server.py" in " ".join(c.cmdline())]


@pytest.mark.parametrize("study", ["adapters", "whole"], indirect=True)
def test_all_checkpoints_of_a_run_are_asked_through_one_server(study, monkeypatch):
    starts, words = [], vllm.Server._words
    monkeypatch.setattr(vllm.Server, "_words", lambda self: (starts.append(1), words(self))[1])
    table = probe.probe_run(study, study.run(RUN))
    assert len(starts) == 1 and not servers()
    assert list(table) == sampling.COLUMNS and table["step"].unique().tolist() == [0, 2, 4]
    per_step = table.groupby("step").size()
    assert (per_step == per_step.iloc[0]).all() and (table["n_tokens"] <= 8).all()
    assert read_json(paths.record("served", RUN, "probe"))["engine"] == "vllm 0.27.1"
    again = probe.probe_run(study, study.run(RUN))  # kept beside the checkpoints: no server
    assert len(starts) == 1 and again.equals(table)
    base = pd.read_parquet(paths.responses("served", BASE))
    assert table[table["step"] == 0]["response"].tolist() == base["response"].tolist()


def test_a_reply_depends_on_its_seed_alone(study):
    run, folders = study.run(RUN), [paths.last_checkpoint("served", RUN)]
    asked = load_probes(study.probing)
    with vllm.serving(run, study.probing, asked, folders) as server:
        whole = server.load(folders[0]).respond(asked, study.probing, 0)
        few = server.load(folders[0]).respond(asked.tail(3), study.probing, 0)
        other = server.load(folders[0]).respond(asked, study.probing, 1)
    key = ["prompt_id", "sample"]
    both = few.merge(whole, on=key, suffixes=("", "_whole"))
    assert len(both) == len(few) and (both["response"] == both["response_whole"]).all()
    assert (other["response"] != whole["response"]).mean() > 0.5


@pytest.mark.parametrize("study", ["adapters", "whole"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "said"),
    [("stale", "it serves old weights|nats apart"), ("wrong", "nats apart, above 0.05")],
)
def test_a_server_with_other_weights_is_caught(study, monkeypatch, fault, said):
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(vllm.ServedWeightsError, match=said):
        probe.probe_run(study, study.run(RUN))
    assert not servers() and not paths.responses("served", RUN).exists()


def test_a_server_that_does_not_start_says_where_it_says_why(study, monkeypatch):
    monkeypatch.setenv("FAULT", "start")
    with pytest.raises(RuntimeError, match="does not serve; it says why in .*vllm.log"):
        probe.probe_run(study, study.run(RUN))
    assert "no GPU" in (paths.run("served", RUN) / "vllm.log").read_text()
    monkeypatch.setenv("VD_VLLM", "no-such-vllm")
    with pytest.raises(RuntimeError, match="let VD_VLLM name its program"):
        probe.probe_run(study, study.run(RUN))
