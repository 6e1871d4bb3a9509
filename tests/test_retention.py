"""What stays of checkpoints that were asked: exact differences, or a note; copies on a hub."""

import base64
import json
import re
from http.server import ThreadingHTTPServer
from threading import Thread

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from small import JsonHandler

from vd import paths
from vd.models import deltas, loading
from vd.models.weights import weights_digest
from vd.probing import probe
from vd.store.files import read_json, write_json
from vd.study.load import load_study
from vd.training import retention
from vd.training.train import train_run

BASE, RUN = "tiny-llama/base/seed-0", "tiny-llama/sft-support/seed-0"


def study_of(place, lora=None, **keys):
    """A run of four checkpoints after its start, of whole weights in bfloat16 or of adapters."""
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    content["models"]["tiny-llama"]["dtype"] = "bfloat16"
    content["probing"] |= {"per_topic": 1, "samples": 1, "checkpoints": "all"}
    for section in ("sft", "scorers", "preference"):
        for entry in content[section].values():
            entry |= {"lora": lora} if entry.get("method") != "given" else {}
    # a rate of real fine-tuning, beside which most bits of a weight stay
    content["sft"]["sft-support"] |= {"save_every": 1, "learning_rate": 1.0e-5} | keys
    (place / "configs" / "kept.yaml").write_text(yaml.safe_dump(content))
    return load_study("kept")


def folder(step):
    return paths.checkpoint("kept", RUN, step)


def size(step):
    return sum(f.stat().st_size for f in folder(step).iterdir() if f.suffix != ".json")


def test_differences_are_exact_and_small(place):
    study = study_of(place, keep="deltas")
    run = study.run(RUN)
    train_run(run)
    model, before = run.model_settings, {step: size(step) for step in range(5)}
    whole = {s: loading.for_inference(model, folder(s)).state_dict() for s in range(5)}
    digests = read_json(paths.record("kept", RUN, "train"))["weights"]
    retention.retire(run)
    assert [(folder(s) / deltas.FILE).exists() for s in range(5)] == [False, *[True] * 3, False]
    for step in range(5):
        now = loading.for_inference(model, folder(step)).state_dict()
        assert all(torch.equal(now[name], whole[step][name]) for name in whole[step])
        with deltas.whole(folder(step)) as there:
            assert weights_digest(there) == digests[str(step)]
    assert all(size(step) < 0.7 * before[step] for step in (1, 2, 3))
    retention.retire(run)  # twice is once
    train_run(run)  # finished runs stay as they are
    assert (folder(2) / deltas.FILE).exists() and not (folder(2) / "model.safetensors").exists()


def test_bits_come_back_whatever_they_stand_for(tmp_path):
    """Also those of no number, of zeros with a sign, of other dtypes and of empty weights."""
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-40, 3.0], dtype=torch.bfloat16)
    theirs = {"a": torch.zeros(5, dtype=torch.bfloat16), "b": torch.ones(2, 3), "c": torch.zeros(0)}
    own = {"a": odd, "b": torch.randn(2, 3), "c": torch.zeros(0)}
    for name, weights in (("checkpoint-0", theirs), ("checkpoint-1", own)):
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors")
    deltas.pack(tmp_path / "checkpoint-1", tmp_path / "checkpoint-0")
    with deltas.whole(tmp_path / "checkpoint-1") as there:
        back = load_file(there / "model.safetensors")
    for name, weight in own.items():
        assert back[name].dtype == weight.dtype and back[name].shape == weight.shape
        assert back[name].flatten().view(torch.uint8).equal(weight.flatten().view(torch.uint8))
    (tmp_path / "checkpoint-2").mkdir()
    save_file({"a": odd}, tmp_path / "checkpoint-2" / "model.safetensors")
    with pytest.raises(ValueError, match="holds other weights than"):
        deltas.pack(tmp_path / "checkpoint-2", tmp_path / "checkpoint-0")
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["whole", "adapters"])
def test_what_is_dropped_leaves_its_hash_and_its_replies(place, lora):
    study = study_of(place, lora, keep="ends")
    run = study.run(RUN)
    probe.probe_run(study, study.run(BASE))
    train_run(run)
    replies = probe.probe_run(study, run)
    retention.retire(run)
    digests = read_json(paths.record("kept", RUN, "train"))["weights"]
    for step in (1, 2, 3):
        note = read_json(folder(step) / retention.DROPPED)
        assert note["sha256"] == digests[str(step)] and note["bytes"] > 0
        assert not list(folder(step).glob("*.safetensors"))
    assert probe.probe_run(study, run).equals(replies)
    (folder(2) / "responses.parquet").unlink()
    with pytest.raises(ValueError, match="its weights were dropped once it was asked; write keep"):
        probe.probe_run(study, run)


def test_the_policy_changes_no_run(place):
    train_run(study_of(place).run(RUN))
    made = (paths.checkpoints("kept", RUN) / "made.json").stat().st_mtime_ns
    train_run(study_of(place, keep="deltas").run(RUN))
    assert (paths.checkpoints("kept", RUN) / "made.json").stat().st_mtime_ns == made
    retention.retire(study_of(place, lora={"r": 4}, keep="deltas").run(RUN))


class Hub(ThreadingHTTPServer):
    """Repositories of the hub, as far as branches and commits of small files go."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.refuses = {}, False  # by repository and branch

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(JsonHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        place = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(\w+)/([\w.-]+)", self.path)
        if self.server.refuses:
            self.answer({"error": "no"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.answer({"url": f"{self.server.url}/{name}", "id": "1"})
        elif place[2] == "branch":
            self.server.files.setdefault((place[1], place[3]), {})
            self.answer({})
        elif place[2] == "preupload":
            asked = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": file["path"]} | how for file in asked]})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[place[1], place[3]][line["value"]["path"]] = content
            about = {"commitUrl": f"{self.server.url}/{place[1]}/commit/0", "commitOid": "f" * 40}
            self.answer(about | {"pullRequestUrl": None})


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield server
    server.shutdown()
    server.server_close()


def test_every_step_is_a_revision_of_the_hub(place, hub):
    run = study_of(place, push_to="me/drifts").run(RUN)
    train_run(run)
    repository = "me/drifts-tiny-llama-sft-support-seed-0"
    assert set(hub.files) == {(repository, f"step-{step}") for step in range(5)}
    for step in range(5):
        there = hub.files[repository, f"step-{step}"]
        assert there["model.safetensors"] == (folder(step) / "model.safetensors").read_bytes()
        assert "config.json" in there
        assert read_json(folder(step) / retention.PUSHED)["revision"] == f"step-{step}"
    hub.files.clear()
    train_run(run)
    assert not hub.files  # what was pushed is not pushed again


def test_a_hub_that_refuses_costs_no_training(place, hub):
    hub.refuses = True
    run = study_of(place, push_to="me/drifts").run(RUN)
    with pytest.raises(ConnectionError, match="log in with `hf auth login`, or leave push_to out"):
        train_run(run)
    assert paths.record("kept", RUN, "train").exists()
    write_json({}, folder(0) / "other.json")
    hub.refuses = False
    train_run(run)
    assert len(hub.files) == 5
