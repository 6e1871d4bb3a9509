"""The study paper.

It loads, counts, and runs through the same notebooks when its models and data are made tiny.
"""

import os
import re
from collections import Counter

import pandas as pd
import pytest
import yaml
from test_workflow import snakemake

from vd import paths
from vd.costs.bill import bill
from vd.costs.cards import CARDS
from vd.store import files
from vd.study.load import load_study

PAPER = yaml.safe_load((paths.NOTEBOOKS / "configs" / "paper.yaml").read_text())
SMOKE = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
KEPT = ("dpo-oppose", "ppo-support", "simpo-ultrafeedback")  # one run of every method
MODELS = ("llama", "qwen3")
DATA = {
    "alpaca": "sft_support",
    "ultrafeedback": "low_gap",
    "synthetic": "vd/corpora/value_gap.jsonl",
}
TINY = {
    "steps": 2,
    "save_every": 1,
    "examples": 16,
    "batch_size": 4,
    "device_batch_size": 2,
    "warmup_steps": 0,
    "max_length": 96,
}


def test_paper_asks_for_every_method_on_every_data_set():
    runs = load_study("paper").runs().values()
    counts = Counter((run.section, run.method) for run in runs)
    # four kinds of pairs from both SFT runs, and two more of an ablation
    methods = {("preference", m): 2 * (4 * 2 + 2) for m in ("dpo", "simpo", "openrlhf_ppo")}
    assert counts == methods | {
        ("base", None): 2,
        ("sft", "sft"): 2 * 2,
        ("scorers", "reward_model"): 2 * 4 * 2,  # for four kinds of pairs, on both SFT runs
    }
    pairs = {
        (r.method, r.settings.data, r.settings.swap_labels)
        for r in runs
        if r.section == "preference"
    }
    assert len(pairs) == 3 * 4
    assert {r.settings.epochs for r in runs if r.section == "sft"} == {3}
    assert all(r.settings.lora is None for r in runs if r.settings)


def test_the_8b_models_are_trained_by_sft_alone_and_asked_alike():
    large, small = load_study("paper-8b"), load_study("paper")
    assert {(run.model, run.method) for run in large.runs().values() if run.method} == {
        ("llama-3.1-8b", "sft"),
        ("qwen3-8b", "sft"),
    }
    assert large.sft == small.sft and large.judge == small.judge and large.vprism == small.vprism
    probes = {"probes": small.probing.probes}
    assert large.probing.model_copy(update=probes) == small.probing


@pytest.mark.parametrize("study", ["paper", "paper-8b"])
def test_it_fits_one_node_of_eight_gpus(study):
    plan, wrong = bill(load_study(study), CARDS["h100"], 8)
    assert not wrong and "wall time" in plan


def test_every_number_of_paper_says_where_it_comes_from():
    for line in (paths.NOTEBOOKS / "configs" / "paper.yaml").read_text().splitlines():
        if re.search(r": [\d.]+(e-?\d+)?\s*(#|$)", line):
            assert re.search(r"# .*\b(paper|authors|follow-up|ours)\b", line), line


def test_dry_run_shows_the_whole_graph(tmp_path):
    output = snakemake(
        "--dry-run", "--quiet", "rules", env={"VD_STUDY": "paper", "VD_RESULTS": str(tmp_path)}
    )
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output, re.M))
    counted = ("recipe", "01_sft", "02_scorer", "02_preference", "probe", "judge")
    assert {name: int(jobs[name]) for name in counted} == {
        "recipe": 1,
        "01_sft": 4,
        "02_scorer": 16,
        "02_preference": 60,
        "probe": 66,
        "judge": 66,
    }


def shrink(entry):
    """One run on few texts, in two steps."""
    entry.pop("epochs")
    for key in ("processes", "gpus"):
        entry.pop(key, None)
    if entry.get("method") == "openrlhf_ppo":  # its own tests train by it
        entry["method"] = "ppo"
    entry.update(TINY, data=DATA[entry["data"]])
    if "parent" in entry:
        entry["parent"] = "sft-alpaca"
    if "response_length" in entry:
        entry["response_length"] = 6
    if entry.get("method") == "reward_model":
        entry |= {"learning_rate": 1.0e-3, "min_accuracy": 0.0, "held_out": 0.2}


def tiny(study):
    """The study paper on tiny random models of both architectures, one run per method, two steps
    each.
    """
    base = study["models"]["llama-3.2-3b"] | {"dtype": "float32"}
    study["models"] = {name: base | {"source": f"random:{name}"} for name in MODELS}
    study["preference"] = {
        name: entry for name, entry in study["preference"].items() if name in KEPT
    }
    study["sft"].pop("sft-wildchat")
    study["scorers"] = {"reward-support": study["scorers"]["reward-support"]}
    for section in ("sft", "scorers", "preference"):
        for entry in study[section].values():
            shrink(entry)
    # they name runs that are left out, and a server that is not there
    study |= {"findings": {}, "ablations": {}, "recipes": {}}
    study.pop("vprism")
    study["probing"].update(probes="probes", per_topic=2, samples=1, max_new_tokens=4)
    return study | {"judge": SMOKE["judge"], "bootstrap": SMOKE["bootstrap"]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Results of the tiny study as far as its preference runs are probed, and PPO's judged, made by
    Snakemake.
    """
    folder = tmp_path_factory.mktemp("paper")
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny-paper.yaml").write_text(
        yaml.safe_dump(tiny(yaml.safe_load(yaml.safe_dump(PAPER))))
    )
    env = {f"VD_{name.upper()}": str(folder / name) for name in ("configs", "results", "figures")}
    results = folder / "results" / "tiny-paper"
    ends = [
        results / model / f"sft-alpaca/{name}/seed-0/probe.json"
        for model in MODELS
        for name in KEPT
    ]
    ends += [results / model / "sft-alpaca/ppo-support/seed-0/run.json" for model in MODELS]
    targets = [os.path.relpath(end, paths.ROOT) for end in ends]
    snakemake("--quiet", "all", "--", *targets, env=env | {"VD_STUDY": "tiny-paper"})
    return results


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("run", ["sft-alpaca", *(f"sft-alpaca/{name}" for name in KEPT)])
def test_two_steps_of_every_method_on_both_architectures(ran, model, run):
    folder = ran / model / run / "seed-0"
    assert files.read_json(folder / "train.json")["checkpoints"] == [0, 1, 2]
    trained = folder / "checkpoints" / "checkpoint-2"
    assert files.read_json(trained / "config.json")["model_type"] == model
    assert (trained / "model.safetensors").exists(), "whole models, not adapters"
    replies = pd.read_parquet(folder / "responses.parquet")
    assert set(replies["step"]) == {0, 1, 2} and len(replies) == 3 * 22


@pytest.mark.parametrize("model", MODELS)
def test_their_replies_are_judged(ran, model):
    stances = pd.read_parquet(
        ran / model / "sft-alpaca" / "ppo-support" / "seed-0" / "stances.parquet"
    )
    assert set(stances["step"]) == {0, 1, 2} and len(stances) == 3 * 22 * 2
