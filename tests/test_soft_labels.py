"""Pairs whose labels are probabilities: losses of DPO and reward models against their equation."""

import json

import pytest
import torch
import yaml
from small import smoke_with
from test_robust import SFT, batch_of, plain_losses

from vd import paths
from vd.data import sets
from vd.methods import dpo, reward_model
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.training.train import train_run


def equation(ahead, p):
    sure = torch.nn.functional.logsigmoid
    return -(p * sure(ahead) + (1 - p) * sure(-ahead)).mean()


@pytest.fixture
def pairs(place):
    """A file of pairs and their labels."""
    labels = [0.0, 1.0, 0.5, 0.9, 0.6, 0.75, 0.3, 1, 0.2, 0.8, 0.7, 0.95]
    rows = sets.corpus("value_gap").head(len(labels))[["prompt", "chosen", "rejected"]]
    file = place / "soft.jsonl"
    lines = rows.assign(p_chosen=labels).to_dict("records")
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def study_of(place, file, method="dpo", **keys):
    content = smoke_with("soft", "dpo", beta=2.0, save_every=2, steps=2, data=str(file), **keys)
    for left_out in ("scorer", "response_length"):
        content["preference"]["soft"].pop(left_out, None)
    content["preference"]["soft"] |= {"method": method, "batch_size": 4, "examples": 12}
    content["scorers"]["reward"] |= {"data": str(file), "soft_labels": True, "examples": 12}
    content["scorers"]["reward"] |= {"held_out": 0.2, "batch_size": 8}
    content["sft"].pop("given", None)
    (place / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    return load_study("tiny")


def test_dpo_on_soft_labels_has_the_loss_of_its_equation(place, pairs):
    study = study_of(place, pairs, soft_labels=True)
    train_run(study.run(SFT))
    run = study.run("tiny-llama/sft-support/soft/seed-0")
    trainer = dpo.build(run)
    for name, weight in trainer.model.named_parameters():
        if ".default." in name and "lora_B" in name:
            weight.data += 0.1 * torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(1)
            )
    batch = batch_of(trainer, 0, 12)
    # -log sigmoid(d) of hard labels; d from it in double precision
    hard = plain_losses(trainer, batch)
    ahead = -torch.log(torch.expm1(hard.double()))
    expected = equation(ahead, batch[sets.P_CHOSEN].double())
    found = trainer.compute_loss(trainer.model, batch)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(found) != pytest.approx(float(hard.mean()), rel=1e-2)
    train_run(run)
    assert paths.record("tiny", run.id, "train").exists()


def test_a_reward_model_on_soft_labels_has_the_loss_of_its_equation(place, pairs):
    study = study_of(place, pairs, soft_labels=True)
    train_run(study.run(SFT))
    run = study.run("tiny-llama/sft-support/reward/seed-0")
    trainer = reward_model.build(run)
    rows = [trainer.train_dataset[i] for i in range(8)]
    batch = trainer._prepare_inputs(dict(trainer.data_collator(rows)))
    with torch.no_grad():
        asked = {name: batch[name] for name in ("input_ids", "attention_mask")}
        chosen, rejected = trainer.model(**asked).logits.squeeze(-1).chunk(2)
        found = trainer.compute_loss(trainer.model, dict(batch))
    expected = equation(chosen - rejected, torch.tensor([row[sets.P_CHOSEN] for row in rows]))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert len(next(iter(trainer.get_train_dataloader()))[sets.P_CHOSEN]) == 8


@pytest.mark.parametrize("label", [None, 1.5, "often"])
def test_a_label_that_is_no_probability_is_one_line(place, pairs, label):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[2]["p_chosen"] = label
    pairs.write_text("\n".join(map(json.dumps, rows)))
    run = study_of(place, pairs, soft_labels=True).run("tiny-llama/sft-support/soft/seed-0")
    settings = run.settings.model_copy(update={"examples": None})
    with pytest.raises(ValueError, match=r"row 3: no soft label; write a number from 0 to 1"):
        sets.preferences(settings, 0)


def test_methods_that_weigh_hard_labels_refuse_soft_ones(place, pairs):
    with pytest.raises(StudyError, match=r"preference.soft.soft_labels"):
        study_of(place, pairs, method="kldpo", tau=0.3, soft_labels=True)
