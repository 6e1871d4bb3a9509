"""Checkpoints from elsewhere are found, named by their weights, and gone on from."""

import hashlib
import json
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from vd import paths
from vd.data import fetch
from vd.models import loading
from vd.models.locate import locate
from vd.probing import responders
from vd.probing.probe import probe_run
from vd.store.files import read_json
from vd.study.load import load_study
from vd.study.settings import ModelSettings
from vd.training.train import train_run

GIVEN, MORE = "tiny-llama/given/seed-0", "tiny-llama/given/more/seed-0"
SFT = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())["sft"]["sft-support"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Whole models in folders: `one`, `two`, and `again`, which has the weights of `two`."""
    folder, source = tmp_path_factory.mktemp("models"), Path(locate("random:llama"))
    for seed, name in enumerate(("one", "two", "again")):
        shutil.copytree(source, folder / name)
        noise = torch.Generator().manual_seed(min(seed, 1))
        weights = load_file(source / "model.safetensors")
        moved = {n: w + 0.1 * torch.randn(w.shape, generator=noise) for n, w in weights.items()}
        save_file(moved, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "training_args.bin").write_bytes(name.encode())  # a Trainer leaves it
    return folder


class Hub(ThreadingHTTPServer):
    """A model repository of the hub, `mine/series`, whose revisions are folders here.

    It answers as the hub does to who asks for a revision, a list of its files, or a file.
    """

    def __init__(self, tags):
        super().__init__(("127.0.0.1", 0), Answer)
        self.tags = tags  # folder of each tag; what it named before stays a commit
        self.commits = {self.commit(folder): folder for folder in tags.values()}
        self.asked = []  # tags and commits, in order

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, folder):
        return hashlib.sha1(str(folder).encode()).hexdigest()

    def find(self, revision):
        """The folder of a tag or commit; None if there is no such revision."""
        self.asked.append(revision)
        return (self.tags | self.commits).get(revision)


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        about = re.match(r"/api/models/mine/series/(revision|tree)/(\w+)", self.path)
        file = re.match(r"/mine/series/resolve/(\w+)/([\w.]+)", self.path)
        revision = about[2] if about else file and file[1]
        folder = revision and self.server.find(revision)
        if not folder:
            missing = "RevisionNotFound" if revision else "RepoNotFound"
            self.answer(404, b"", {"X-Error-Code": missing})
        elif about and about[1] == "revision":
            commit = self.server.commit(folder)
            self.answer(200, json.dumps({"id": "mine/series", "sha": commit}).encode())
        elif about:
            rows = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": digest(f)}
                for f in sorted(folder.iterdir())
            ]
            self.answer(200, json.dumps(rows).encode())
        else:
            self.file(folder / file[2], self.server.commit(folder))

    def file(self, file, commit):
        if not file.exists():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        names = {"ETag": f'"{digest(file)}"', "X-Repo-Commit": commit}
        self.answer(200, file.read_bytes(), names)

    def answer(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    """A hub that the libraries ask in place of the real one, with an empty cache of downloads."""
    server = Hub({f"step{n}": models / name for n, name in enumerate(("one", "two", "again"))})
    Thread(target=server.serve_forever, daemon=True).start()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)  # HF_ENDPOINT, which is read on import
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "downloads"))
    yield server
    server.shutdown()
    server.server_close()


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def study_of(place, checkpoints, name="own", **more):
    """A study of a given series, whose runs `more` start from it."""
    sft = {"given": {"method": "given", "checkpoints": checkpoints}, **more}
    probing = {"per_topic": 1, "samples": 1, "max_new_tokens": 4}
    models = {"tiny-llama": {"source": "random:llama", "dtype": "float32"}}
    content = {"seeds": [0], "models": models, "sft": sft, "probing": probing}
    (place / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return load_study(name)


def folders(models):
    return {step: str(models / name) for step, name in ((0, "one"), (10, "two"), (30, "again"))}


def embedding(checkpoint):
    """What tells which weights answer for a checkpoint."""
    settings = ModelSettings(source="random:llama", dtype="float32")
    return responders.load_responder(settings, checkpoint).model.get_input_embeddings().weight.cpu()


def weights_of(folder):
    """The same of a whole model in a folder."""
    model = loading.load_base(ModelSettings(source=str(folder), dtype="float32"))
    return model.get_input_embeddings().weight


def test_a_series_of_folders_is_named_by_its_weights_and_stays_where_it_is(place, models):
    run = study_of(place, folders(models)).run(GIVEN)
    there = train_run(run)
    assert [folder.name for folder in there] == ["checkpoint-0", "checkpoint-10", "checkpoint-30"]
    record = read_json(paths.record("own", GIVEN, "train"))
    assert record["checkpoints"] == [0, 10, 30] and record["tokens_seen"] is None
    expected = {
        step: digest(Path(folder) / "model.safetensors") for step, folder in folders(models).items()
    }
    assert record["weights"] == {str(step): name for step, name in expected.items()}
    assert record["equal_weights"] == [[10, 30]] and expected[0] != expected[10]
    assert not list(paths.run("own", GIVEN).rglob("*.safetensors"))
    for folder, name in zip(there, ("one", "two", "again"), strict=True):
        assert torch.equal(embedding(folder), weights_of(models / name))


def test_a_folder_in_results_follows_the_results(place, models):
    shutil.copytree(models / "one", place / "results" / "mine" / "checkpoint-5")
    study = study_of(place, {5: "results/mine/checkpoint-5"}, more=SFT | {"parent": "given"})
    (folder,) = train_run(study.run(GIVEN))
    assert torch.equal(embedding(folder), weights_of(models / "one"))
    base = loading.load_base(study.run(MORE).model_settings)
    assert torch.equal(base.get_input_embeddings().weight, weights_of(models / "one"))


def test_a_series_of_the_hub_is_kept_by_its_commits(place, models, hub):
    """What a tag names later does not change what was traced."""
    study = study_of(place, {n: f"mine/series@step{n}" for n in range(3)})
    there = train_run(study.run(GIVEN))
    record = read_json(paths.record("own", GIVEN, "train"))
    names = ("one", "two", "again")
    assert record["revisions"] == {
        str(step): hub.commit(models / name) for step, name in enumerate(names)
    }
    assert record["weights"]["0"] == digest(models / "one" / "model.safetensors")
    assert record["equal_weights"] == [[1, 2]]
    assert hub.asked[:1] == ["step0"] and {"step1", "step2"} < set(hub.asked)
    hub.tags["step0"] = models / "two"
    assert torch.equal(embedding(there[0]), weights_of(models / "one"))
    train_run(study.run(GIVEN))
    assert torch.equal(embedding(there[0]), weights_of(models / "two"))
    assert read_json(paths.record("own", GIVEN, "train"))["equal_weights"] == [[0, 1, 2]]


def test_what_was_fetched_needs_no_network(place, models, hub, monkeypatch):
    study = study_of(
        place, {n: f"mine/series@step{n}" for n in range(2)}, more=SFT | {"parent": "given"}
    )
    said = list(fetch.fetch(study))
    commit = hub.commit(models / "one")
    assert f"model mine/series: {commit}" in said and any("embedded:minilm" in s for s in said)
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    there = train_run(study.run(GIVEN))
    assert torch.equal(embedding(there[0]), weights_of(models / "one"))
    assert len(train_run(study.run(MORE))) == 3


def test_what_the_hub_does_not_have_is_named_with_the_fix(place, hub):
    for where, said in (
        ("mine/series@step9", "'mine/series': revision step9 cannot be loaded: .*404"),
        ("mine/nothing", "'mine/nothing': revision main cannot be loaded: .*404"),
    ):
        with pytest.raises(ValueError, match=f"{said}.*; correct its source or revision"):
            train_run(study_of(place, {0: where}).run(GIVEN))
    assert not paths.record("own", GIVEN, "train").exists()


def test_a_place_without_weights_is_refused_with_the_fix(place, models):
    bare = place / "bare"
    shutil.copytree(models / "one", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    study = study_of(place, {0: str(models / "one"), 4: str(bare)})
    said = rf"{bare}: no weights \(.*safetensors, .*bin\); name a folder or hub model whose weights"
    with pytest.raises(ValueError, match=said):
        train_run(study.run(GIVEN))
    assert not paths.record("own", GIVEN, "train").exists()
    with pytest.raises(ValueError, match=r"'no/such/folder': .*; correct its source or revision"):
        train_run(study_of(place, {0: "no/such/folder"}).run(GIVEN))


def test_a_trained_run_names_the_weights_of_each_step(place):
    """A learning rate that no float32 holds leaves them as they are, and that is said."""
    parent = study_of(place, {0: "random:llama"}, more=SFT, still=SFT | {"learning_rate": 1e-60})
    for name, alike in (("more", []), ("still", [[0, 2, 4]])):
        there = train_run(parent.run(f"tiny-llama/{name}/seed-0"))
        record = read_json(paths.record("own", f"tiny-llama/{name}/seed-0", "train"))
        expected = [digest(folder / "adapter_model.safetensors") for folder in there]
        assert len(expected) == 3
        assert list(record["weights"].values()) == expected
        assert record["equal_weights"] == alike


def moved(checkpoint):
    """Whether adapters change their model."""
    weights = load_file(checkpoint / "adapter_model.safetensors")
    return any(weight.any() for name, weight in weights.items() if "lora_B" in name)


def test_a_run_goes_on_from_the_last_model_of_a_series(place, models):
    series = {0: str(models / "one"), 10: str(models / "two")}
    study = study_of(place, series, more=SFT | {"parent": "given"})
    given, more = study.run(GIVEN), study.run(MORE)
    assert more.parent == GIVEN and more.model_settings.source == series[10]
    train_run(given)
    first, *_, last = train_run(more)
    model = loading.for_inference(more.model_settings, first).get_input_embeddings().weight
    assert torch.equal(model.cpu(), weights_of(models / "two"))
    assert not moved(first) and moved(last)  # step 0 changes nothing of it
    replies = {run.id: probe_run(study, run) for run in (given, more)}
    assert sorted(set(replies[GIVEN]["step"])) == [0, 10]
    assert sorted(set(replies[MORE]["step"])) == [0, 2, 4]
    parents = replies[GIVEN].query("step == 10").assign(step=0, run=MORE)
    own = replies[MORE].query("step == 0")
    pd.testing.assert_frame_equal(own, parents.reset_index(drop=True))
    before = replies[GIVEN].query("step == 0")["response"]
    assert before.tolist() != own["response"].tolist()


def test_a_series_that_changed_is_traced_anew(place, models):
    """Steps that are no longer of it are gone, and so are replies of weights that were replaced."""
    shutil.copytree(models / "one", place / "mine")
    study = study_of(place, {0: str(place / "mine"), 4: str(models / "two")})
    train_run(study.run(GIVEN))
    before = probe_run(study, study.run(GIVEN))
    shutil.copy(models / "two" / "model.safetensors", place / "mine")
    study = study_of(place, {0: str(place / "mine")})
    train_run(study.run(GIVEN))
    after = probe_run(study, study.run(GIVEN))
    assert paths.steps("own", GIVEN) == [0] and set(after["step"]) == {0}
    of_two = before.query("step == 4")["response"].tolist()
    assert after["response"].tolist() == of_two != before.query("step == 0")["response"].tolist()


def test_a_series_that_did_not_change_keeps_its_replies(place, models):
    study = study_of(place, {0: str(models / "one")})
    train_run(study.run(GIVEN))
    probe_run(study, study.run(GIVEN))
    kept = paths.checkpoint("own", GIVEN, 0) / "responses.parquet"
    written = kept.stat().st_mtime_ns
    train_run(study.run(GIVEN))
    assert kept.stat().st_mtime_ns == written
