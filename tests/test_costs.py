"""The plan before the bill: sizes, operations and schedules against what is counted."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from vd import paths
from vd.costs import bill, estimate, formulas, schedule
from vd.costs.cards import CARDS
from vd.costs.estimate import Job
from vd.costs.formulas import Texts
from vd.costs.shapes import KNOWN, Shape, shape_of
from vd.study.load import load_study
from vd.study.settings import ModelSettings

H100 = CARDS["h100"]


@pytest.mark.parametrize(
    ("source", "billions"),  # as their cards on the hub say
    [
        ("meta-llama/Llama-3.2-3B", 3.213),
        ("meta-llama/Llama-3.1-8B", 8.030),
        ("Qwen/Qwen3-4B-Base", 4.022),
        ("Qwen/Qwen3-8B-Base", 8.191),
        ("embedded:smollm2-135m-instruct", 0.1345),
        ("embedded:gemma3-270m", 0.2681),
    ],
)
def test_models_are_as_large_as_they_are_said_to_be(source, billions):
    assert KNOWN[source].parameters / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.fixture
def tiny():
    """A random Llama large enough that what formulas leave out is little."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 600}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False))
    return model, Shape(3, 128, 8, 4, 16, 256, 600, False)


def test_parameters_and_adapters_are_counted_as_torch_and_peft_count(tiny):
    from peft import LoraConfig, get_peft_model

    model, shape = tiny
    assert shape.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.01)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = get_peft_model(model, config).get_nb_trainable_parameters()[0]
    assert shape.adapters(4) == trained


@pytest.mark.parametrize("adapters", [True, False])
def test_operations_are_those_that_torch_counts(tiny, adapters):
    from peft import LoraConfig, get_peft_model

    model, shape = tiny
    if adapters:
        config = LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    ids = torch.randint(0, 50, (8, 32))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    texts = Texts(8 * 32, 32, 8 * 32)
    planned = formulas.step(shape, texts, adapters=adapters, again=False)
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.15)


def job(run, seconds, gpus=1, after=()):
    return Job(run, "m", "train", "sft", tuple((a, "train") for a in after), gpus, seconds, 1e9)


def test_jobs_are_scheduled_by_the_longest_chain():
    jobs = [job("a", 10), job("b", 5, after=["a"]), job("c", 4), job("d", 4), job("e", 9, 2)]
    assert schedule.longest_chain(jobs) == 15
    assert schedule.wall_time(jobs, 2) == 24  # e has both GPUs from 10 to 19, then comes b
    assert schedule.wall_time(jobs, 100) == 15
    with pytest.raises(ValueError, match="e: 2 GPUs are wanted, and there are 1"):
        schedule.wall_time(jobs, 1)


def test_a_plan_counts_what_the_study_does():
    study = load_study("smoke")
    jobs = {(j.run, j.stage): j for j in estimate.jobs(study, H100)}
    runs = study.runs()
    assert {r for r, stage in jobs if stage == "probe"} == set(study.policies())
    sft = jobs["tiny-llama/sft-support/seed-0", "train"]
    settings = runs["tiny-llama/sft-support/seed-0"].settings
    assert sft.steps == settings.steps and sft.gpus == 1
    few = 11 * study.probing.per_topic * study.probing.samples * study.probing.max_new_tokens
    base = jobs["tiny-llama/base/seed-0", "probe"]
    assert base.tokens == few and base.calls == 0
    for (run, _), own in jobs.items():
        assert own.seconds > 0 and own.memory > 0, run
        assert all(before in jobs for before in own.after), run


def paper_with(place, processes):
    """The study paper with DPO in so many processes."""
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "paper.yaml").read_text())
    for entry in content["preference"].values():
        entry |= {"processes": processes} if entry["method"] == "dpo" else {}
    content["probing"]["probes"] = "results/wide/vprism.jsonl"
    (place / "configs" / "wide.yaml").write_text(yaml.safe_dump(content))
    return load_study("wide")


def test_what_does_not_fit_is_refused_with_the_key_to_change(place):
    plan, wrong = bill.bill(paper_with(place, 1), H100, 8)
    said = "\n".join(wrong)
    assert "qwen3-4b: train dpo: 10 runs need up to" in said and "write processes: 2" in said
    assert "train sft" not in said and "train openrlhf_ppo" not in said
    assert "API judge" in plan and "GPU-hours" in plan and "longest chain" in plan
    assert "recipes/synthetic/data.jsonl': guessed" in plan
    # and written so it fits
    assert not bill.bill(paper_with(place, 2), H100, 8)[1]


def test_more_gpus_than_there_are_is_refused(place):
    said = "\n".join(bill.bill(paper_with(place, 2), H100, 2)[1])
    assert "runs want 8 GPUs, and there are 2; lower processes, or plan with --gpus 8" in said


def test_an_unknown_model_and_an_unknown_card_are_one_line(place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VD_CONFIGS")
    with pytest.raises(LookupError, match="'some/model': its size is not known"):
        shape_of(ModelSettings(source="some/model"))
    command = [sys.executable, "-m", "vd", "smoke", "--plan", "--gpu", "abacus"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no card 'abacus'; write one of a100" in done.stderr


def test_the_plan_of_pocket_is_what_was_measured():
    """Step time, memory and disk of `pocket` as it was run on the machine behind the card `cpu`."""
    study, card, near = load_study("pocket"), CARDS["cpu"], {}
    jobs = [job for job in estimate.jobs(study, card) if job.stage == "train"]
    # that in print, not of these tests
    with zipfile.ZipFile(paths.ROOT / "results" / "pocket" / "recorded.zip") as archive:
        for job in jobs:
            run = study.run(job.run)
            name = "train" if run.makes == "scorer" else "run"
            file = paths.record("pocket", job.run, name).relative_to(paths.results("pocket"))
            record = json.loads(archive.read(file.as_posix()))
            # a scorer's own record is of its training alone
            peaks = record.get("peak_memory_gb") or {"train": record["hardware"]["peak_memory_gb"]}
            trained = record if run.makes == "scorer" else record["train"]
            kept = 4 * trained["trainable_parameters"] * len(trained["checkpoints"])
            near[run.lineage] = {
                "seconds": (job.seconds - card.start) / record["wall_seconds"]["train"],
                "memory": job.memory / 1e9 / peaks["train"],
                "tokens": job.tokens / record["tokens_seen"],
                "disk": job.disk / kept,
            }
    far = {
        key: value for key, own in near.items() for value in own.values() if not 0.75 < value < 1.25
    }
    assert len(near) == 8 and not far, near
