"""One run trained by two processes: the same steps, losses and checkpoints as by one."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from vd import paths
from vd.models import loading
from vd.store.files import read_json
from vd.study.load import load_study
from vd.training import processes
from vd.training.train import train_run

ON_CPU = [str(Path(__file__).with_name("fsdp_on_cpu.py"))]
SFT = "tiny-llama/sft-support/seed-0"
RUNS = [SFT] + [f"tiny-llama/sft-support/{name}/seed-0" for name in
                ("dpo-support", "simpo-support", "kldpo")]  # fmt: skip


def study_of(place, name, n, lora):
    """smoke with runs of `n` processes and two examples a pass; whole models are in bfloat16."""
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    plain = content["preference"]["dpo-support"]
    content["preference"]["kldpo"] = plain | {"method": "kldpo", "beta": 2.0, "tau": 0.3}
    keys = {"device_batch_size": 2, "lora": lora, "activation_checkpointing": lora is None}
    for section in ("sft", "scorers", "preference"):
        for entry in content[section].values():
            method = entry.get("method", "sft")
            entry |= keys if method != "given" else {}
            entry |= {"processes": n} if method in ("sft", "dpo", "simpo", "kldpo") else {}
    (place / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return load_study(name)


def weights(folder):
    return {n: w for file in folder.glob("*.safetensors") for n, w in load_file(file).items()}


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None], ids=["adapters", "whole"])
def test_two_processes_train_as_one_does(place, lora):
    one, two = (study_of(place, f"by{n}", n, lora) for n in (1, 2))
    for run in RUNS:
        train_run(one.run(run))
        folders = processes.start(two.run(run), processes.ENTRY if lora else ON_CPU)
        found = [pd.read_csv(paths.metrics(name, run)) for name in ("by1", "by2")]
        assert len(found[0]) == 4 and found[0]["step"].tolist() == found[1]["step"].tolist()
        for column in ("loss", "learning_rate", "tokens_seen", "grad_norm"):
            same = pytest.approx(found[0][column], rel=2e-3)
            assert found[1][column].tolist() == same, (run, column)
        records = [read_json(paths.record(name, run, "train")) for name in ("by1", "by2")]
        assert [record["processes"] for record in records] == [1, 2]
        assert records[0]["checkpoints"] == records[1]["checkpoints"] == [0, 2, 4]
        assert records[0]["trainable_parameters"] == records[1]["trainable_parameters"]
        for folder in folders:
            own = weights(folder)
            step = int(folder.name.partition("-")[2])
            same = weights(paths.checkpoint("by1", run, step))
            assert own.keys() == same.keys()
            for name, weight in own.items():
                assert weight.dtype == same[name].dtype
                close = weight.float().isclose(same[name].float(), rtol=1e-2, atol=2e-4)
                # Adam makes a whole step of a gradient that is nothing but rounding
                assert close.float().mean() > 0.999, (run, name)
            loading.for_inference(two.run(SFT).model_settings, folder)


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None], ids=["adapters", "whole"])
def test_processes_that_ended_go_on_from_their_last_checkpoint(place, monkeypatch, lora):
    """And end where those that were never interrupted do."""
    whole, cut = (study_of(place, name, 2, lora) for name in ("whole", "cut"))
    monkeypatch.setenv("FSDP", "0" if lora else "1")
    processes.start(whole.run(SFT), ON_CPU)
    monkeypatch.setenv("DIE_AT", "3")
    with pytest.raises(RuntimeError, match=f"{SFT}: RuntimeError: the power went; what its 2"):
        processes.start(cut.run(SFT), ON_CPU)
    assert not paths.record("cut", SFT, "train").exists()
    monkeypatch.delenv("DIE_AT")
    folders = processes.start(cut.run(SFT), ON_CPU)
    assert read_json(paths.record("cut", SFT, "train"))["resumed_from_step"] == 2
    tables = [pd.read_csv(paths.metrics(name, SFT)) for name in ("whole", "cut")]
    assert tables[1]["loss"].tolist() == pytest.approx(tables[0]["loss"].tolist(), rel=1e-4)
    end, same = weights(folders[-1]), weights(paths.last_checkpoint("whole", SFT))
    assert all(torch.equal(end[name], same[name]) for name in end)
