"""PPO on several GPUs, by OpenRLHF in an environment of its own, for which a stand-in trains."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small import smoke_with

from vd import paths
from vd.models import loading
from vd.probing import probe
from vd.store.files import read_json
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.training import rewards, scorers
from vd.training.train import train_run

SFT, REWARD = "tiny-llama/sft-support/seed-0", "tiny-llama/sft-support/reward/seed-0"
RUN = "tiny-llama/sft-support/wide/seed-0"


def study_of(place, **keys):
    sizes = {"steps": 5, "save_every": 2, "batch_size": 8, "device_batch_size": 2, "gpus": 4}
    content = smoke_with("wide", "openrlhf_ppo", **sizes | {"missing_eos_penalty": 1.0} | keys)
    content["models"]["tiny-llama"]["dtype"] = "bfloat16"
    content["probing"] |= {"per_topic": 1, "samples": 1}
    for section in ("sft", "scorers"):
        for entry in content[section].values():
            entry |= {"lora": None} if entry.get("method") != "given" else {}
    (place / "configs" / "wide.yaml").write_text(yaml.safe_dump(content))
    return load_study("wide")


@pytest.fixture
def study(place, monkeypatch):
    program = Path(__file__).with_name("openrlhf.py")
    monkeypatch.setenv("VD_OPENRLHF", f"'{sys.executable}' '{program}'")
    found = study_of(place)
    for run in (SFT, REWARD):
        train_run(found.run(run))
    return found


def weights(step, run=RUN):
    folder = paths.checkpoint("wide", run, step)
    return {n: w for file in folder.glob("*.safetensors") for n, w in load_file(file).items()}


def test_its_checkpoints_are_those_of_a_run_like_any_other(study):
    run = study.run(RUN)
    folders = train_run(run)
    assert [folder.name for folder in folders] == [f"checkpoint-{s}" for s in (0, 2, 4, 5)]
    start = weights(0)
    assert all(torch.equal(start[n], w) for n, w in weights(4, SFT).items())
    assert any(not torch.equal(start[n], w) for n, w in weights(5).items())
    metrics = pd.read_csv(paths.metrics("wide", RUN))
    assert metrics["step"].tolist() == [1, 2, 3, 4, 5] and (metrics["kl"] == 0.01).all()
    assert (metrics["loss"] + 8 * metrics["reward"]).abs().max() < 1e-3  # as the stand-in logs it
    assert metrics["tokens_seen"].is_monotonic_increasing
    record = read_json(paths.record("wide", RUN, "train"))
    assert record["checkpoints"] == [0, 2, 4, 5] and record["effective_batch_size"] == 8
    loading.for_inference(run.model_settings, folders[-1])
    assert train_run(run) == folders  # finished, and left as it is
    probe.probe_run(study, study.run("tiny-llama/base/seed-0"))
    probe.probe_run(study, study.run(SFT))
    assert probe.probe_run(study, run)["step"].max() == 5


def test_rewards_are_those_of_our_scorer(study):
    run = study.run(RUN)
    tokenizer = loading.load_tokenizer(run.model_settings)
    score = rewards.scoring(run, tokenizer)
    message = [{"role": "user", "content": "Is it so?"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    whole, cut = f"{text}Yes.{tokenizer.eos_token}", f"{text}Yes."
    prompt, replies = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, "Yes."))
    model = scorers.load("wide", REWARD, tokenizer)
    ends = [[*replies, tokenizer.eos_token_id], replies]
    expected = scorers.scores(model, tokenizer, [prompt, prompt], ends)
    found = score([whole, cut])
    assert found[0][0] == pytest.approx(expected[0].item(), abs=1e-4)
    assert found[1][0] == pytest.approx(expected[1].item() - 1.0, abs=1e-4)  # it does not end
    assert found[0][1] == len(prompt) + len(ends[0])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("breaks", "ended with status 1; see .*openrlhf.log"),
        ("empty", "no weights, where OpenRLHF"),
    ],
)
def test_what_goes_wrong_there_is_told_here(study, monkeypatch, fault, said):
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(RuntimeError, match=said):
        train_run(study.run(RUN))
    assert not paths.record("wide", RUN, "train").exists()
    monkeypatch.delenv("FAULT")
    assert len(train_run(study.run(RUN))) == 4  # starts over


def test_without_openrlhf_it_says_how_to_name_it(study, monkeypatch):
    monkeypatch.setenv("VD_OPENRLHF", "no-such-program")
    with pytest.raises(RuntimeError, match="set VD_OPENRLHF"):
        train_run(study.run(RUN))


def test_adapters_and_further_steps_are_refused(place):
    for key, value in (("lora", {"r": 4}), ("save_at", [1])):
        with pytest.raises(StudyError, match=key):
            study_of(place, **{key: value})
