"""GRPO and RLOO: groups of replies against a scorer of the study."""

import math

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small import smoke_with

from vd import paths
from vd.methods import grpo, rloo
from vd.models import loading
from vd.store.files import read_json
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.training import online, scorers
from vd.training.train import train_run

SFT, REWARD = "tiny-llama/sft-support/seed-0", "tiny-llama/sft-support/reward/seed-0"
RUN = "tiny-llama/sft-support/online/seed-0"
MODULES = {"grpo": grpo, "rloo": rloo}


def study_of(place, method, lora, **keys):
    sizes = {"steps": 3, "save_every": 2, "batch_size": 8, "device_batch_size": 4}
    content = smoke_with("online", method, **sizes | keys)
    for section in ("sft", "scorers", "preference"):
        for entry in content[section].values():
            entry |= {"lora": lora} if entry.get("method") != "given" else {}
    (place / "configs" / "online.yaml").write_text(yaml.safe_dump(content))
    return load_study("online")


def weights(run, step):
    folder = paths.checkpoint("online", run, step)
    return {n: w for file in folder.glob("*.safetensors") for n, w in load_file(file).items()}


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None], ids=["adapters", "whole"])
@pytest.mark.parametrize("method", MODULES)
def test_a_run_starts_at_its_parent_and_keeps_to_it(place, method, lora):
    study = study_of(place, method, lora, missing_eos_penalty=1.0)
    for run in (SFT, REWARD, RUN):
        train_run(study.run(run))
    start, end = weights(RUN, 0), weights(RUN, 3)
    assert paths.steps("online", RUN) == [0, 2, 3]
    assert all(torch.equal(start[n], w) for n, w in weights(SFT, 4).items())
    assert any(not torch.equal(start[n], w) for n, w in end.items())
    metrics = pd.read_csv(paths.metrics("online", RUN))
    assert metrics["step"].tolist() == [1, 2, 3] and metrics["reward"].notna().all()
    assert metrics["kl"].iloc[0] == pytest.approx(0, abs=1e-6)  # the reference is the start
    assert {*MODULES[method].CURVES, "loss", "tokens_seen"} <= set(metrics)
    assert read_json(paths.record("online", RUN, "train"))["effective_batch_size"] == 8


def test_rewards_are_those_of_the_scorer_less_a_penalty(place):
    study = study_of(place, "rloo", {"r": 4, "alpha": 8}, missing_eos_penalty=2.0)
    for run in (SFT, REWARD):
        train_run(study.run(run))
    run = study.run(RUN)
    tokenizer = loading.load_tokenizer(run.model_settings)
    asked = [[{"role": "user", "content": "Is it so?"}]] * 2
    said = tokenizer("Yes.", add_special_tokens=False)["input_ids"]
    written = [[*said, tokenizer.eos_token_id], said]
    found = online.reward(run, tokenizer)(asked, None, written)
    text = tokenizer.apply_chat_template(asked[0], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    model = scorers.load("online", REWARD, tokenizer)
    expected = scorers.scores(model, tokenizer, [prompt] * 2, written).tolist()
    assert found == pytest.approx([expected[0], expected[1] - 2.0], abs=1e-5)


@pytest.mark.parametrize("method", MODULES)
def test_a_vllm_server_is_named_by_one_key(place, method, monkeypatch):
    """TRL is told of the server; whether it answers is TRL's matter."""
    server = "http://127.0.0.1:8000"
    study = study_of(place, method, {"r": 4, "alpha": 8}, vllm_server=server)
    train_run(study.run(SFT))
    told = {}

    class Stop(Exception):
        pass

    def config(**arguments):
        told.update(arguments)
        raise Stop

    with pytest.raises(Stop):
        online.build(study.run(RUN), None, config)
    assert told["use_vllm"] and told["vllm_mode"] == "server"
    assert told["vllm_server_base_url"] == server and told["num_generations"] == 4


def test_groups_fill_a_batch_and_settings_count(place):
    with pytest.raises(StudyError, match="generations: must divide batch_size 8"):
        study_of(place, "grpo", None, generations=3)
    with pytest.raises(StudyError, match="vllm_server"):
        study_of(place, "grpo", None, vllm_server="my server")
    run = study_of(place, "grpo", None).run(RUN)
    assert math.isclose(run.settings.beta, 0.04) and run.settings.loss == "grpo"
