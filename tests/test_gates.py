"""What is looked at before the first step of a training."""

import pandas as pd
import pytest
import yaml

from vd import paths
from vd.store import fingerprint
from vd.study.load import load_study
from vd.training import gates
from vd.training.train import train_run

SFT = "tiny-llama/sft-support/seed-0"
RUNS = {
    "sft": SFT,
    "dpo": "tiny-llama/sft-support/dpo-support/seed-0",
    "simpo": "tiny-llama/sft-support/simpo-support/seed-0",
    "reward": "tiny-llama/sft-support/reward/seed-0",
}


def study_of(place, **expect):
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    content["sft"]["sft-support"]["expect"] = expect or None
    (place / "configs" / "gated.yaml").write_text(yaml.safe_dump(content))
    return load_study("gated")


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"rows": 52002}, "expected rows 52002, found 32; nothing was trained"),
        ({"steps": 4, "processes": 8}, "expected processes 8, found 1"),
        ({"rows": 31, "steps": 5}, "expected rows 31, found 32; steps 5, found 4"),
        ({"warmup": 0.1}, "expected warmup 0.1 of the steps, found 0"),
    ],
)
def test_a_run_that_is_not_what_was_expected_does_not_begin(place, expect, said):
    with pytest.raises(gates.UnexpectedError, match=said):
        train_run(study_of(place, **expect).run(SFT))
    assert not paths.steps("gated", SFT) and not paths.metrics("gated", SFT).exists()


def test_what_is_expected_changes_no_result(place):
    expected = study_of(place, rows=32, steps=4, warmup=0, processes=1).run(SFT)
    plain = study_of(place).run(SFT)
    assert fingerprint.values(run=expected) == fingerprint.values(run=plain)
    assert len(train_run(expected)) == 3


@pytest.mark.parametrize("method", RUNS)
def test_the_first_batch_is_written_as_the_model_reads_it(place, method):
    study = study_of(place)
    for run in dict.fromkeys((SFT, RUNS[method])):
        train_run(study.run(run))
    text = (paths.run("gated", RUNS[method]) / gates.FILE).read_text()
    rows = text.split("--- ")[1:]
    settings = study.run(RUNS[method]).settings
    assert len(rows) == settings.batch_size * (1 if method == "sft" else 2)
    assert all(row.count("⟦") == row.count("⟧") == 1 for row in rows)
    assert "<|im_start|>user" in rows[0] or method == "reward"
    if method == "reward":
        return
    data = pd.read_json(paths.CORPORA / f"{settings.data}.jsonl", lines=True)
    columns = [column for column in ("completion", "chosen", "rejected") if column in data]
    replies = " ".join(data[columns].to_numpy().ravel())
    for row in rows:
        before, _, scored = row.partition("⟦")
        assert (
            before.rstrip().endswith("<|im_start|>assistant")
            and scored.split("<|im_end|>")[0][:20] in replies
        )
