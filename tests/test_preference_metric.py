"""Which of two replies a checkpoint favours: on pairs of groups that no run trains on."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from small import smoke_with

from vd import paths
from vd.data import held_out, sets
from vd.evaluations.metrics import preference
from vd.evaluations.run import evaluate_run
from vd.models import loading
from vd.probing.probe import probe_run
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.study.settings import PreferenceSettings
from vd.training import trainer
from vd.training.train import train_run

GROUPS = {"yes": {"data": "positions"}, "no": {"data": "positions", "swap_labels": True}}


@pytest.fixture
def study(place):
    content = smoke_with("dpo", "dpo", steps=4, save_every=4)
    for left_out in ("scorer", "response_length"):
        content["preference"]["dpo"].pop(left_out, None)
    content["evaluations"] = {"preference": {"groups": GROUPS, "rows": 12}}
    (place / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    return load_study("tiny")


def test_accuracies_are_those_of_log_ratios_by_hand(study):
    for name in ("base", "sft-support", "sft-support/dpo"):
        run = study.run(f"tiny-llama/{name}/seed-0")
        if not run.is_base:
            train_run(run)
        probe_run(study, run)
        found = evaluate_run(study, run).set_index(["step", "metric"])["value"]
    pairs = held_out.pairs(study, "positions", 12)
    tokenizer = loading.load_tokenizer(study.models["tiny-llama"])

    def logp(checkpoint, row, side):
        model = loading.for_inference(run.model_settings, checkpoint)
        prompt = [{"role": "user", "content": row["prompt"]}]
        told = [{"role": "assistant", "content": row[side]}]
        before, reply = trainer.encode(tokenizer, prompt, told)
        ids = torch.tensor([[*before, *reply]])
        with torch.no_grad():
            scores = model(ids).logits[0, :-1].log_softmax(-1)
        return scores.gather(1, ids[0, 1:, None])[len(before) - 1 :, 0].sum().item(), len(reply)

    h, likelier = [], []
    for row in pairs.to_dict("records"):
        gains = {}
        for side in ("chosen", "rejected"):
            now, n = logp(paths.checkpoint("tiny", run.id, 4), row, side)
            gains[side] = now - logp(paths.checkpoint("tiny", run.id, 0), row, side)[0], now / n
        h.append(gains["chosen"][0] - gains["rejected"][0])
        likelier.append(gains["chosen"][1] > gains["rejected"][1])
    assert found[4, "margin yes"] == pytest.approx(np.mean(h), rel=1e-2)
    assert found[4, "margin no"] == pytest.approx(-np.mean(h), rel=1e-2)
    assert found[4, "accuracy yes"] == pytest.approx(np.mean(np.array(h) > 0))
    assert found[4, "accuracy no"] == pytest.approx(1 - found[4, "accuracy yes"])
    assert found[4, "likelihood yes"] == pytest.approx(np.mean(likelier))
    worst = min(found[4, "accuracy yes"], found[4, "accuracy no"])
    assert found[4, "worst accuracy"] == worst and np.std(h) > 0
    # nothing has gained at the start
    assert found[0, "accuracy yes"] == found[0, "worst accuracy"] == 0.5
    assert found[0, "margin yes"] == 0


def test_no_pair_of_a_run_is_looked_at(study):
    rows = held_out.pairs(study, "value_gap", 500)
    trained = sets.draw_rows(study.run("tiny-llama/sft-support/dpo/seed-0").settings, 0)
    assert len(rows) and not set(rows["chosen"]) & set(trained["chosen"])
    with pytest.raises(ValueError, match="'sft_mixed': no chosen; name a data set of pairs"):
        held_out.pairs(study, "sft_mixed", 5)


def test_replies_that_groups_share_are_read_once(study, monkeypatch):
    settings = study.evaluation_settings()["preference"]
    pairs, read = preference.pairs_of(settings, study), []

    def counted(responder, texts, batch_size):
        read.extend(texts)
        return np.arange(len(texts), dtype=float)

    class Known:
        tokenizer = loading.load_tokenizer(study.models["tiny-llama"])

    monkeypatch.setattr(preference, "negative_log_likelihoods", counted)
    nats, _ = preference.log_likelihoods(Known, pairs, settings)
    assert len(pairs) == 24 and len(read) == 24 and nats.shape == (24, 2)
    assert (nats[:12] == nats[12:, ::-1]).all()


def test_a_share_of_the_pairs_is_of_others():
    settings = dict(data="value_gap", steps=1, save_every=1, learning_rate=1e-3)
    ours, theirs = (set(sets.corpus(name)["chosen"]) for name in ("value_gap", "low_gap"))
    found = {}
    for share in (0.2, 0.5):
        others = {"data": "low_gap", "share": share}
        own = PreferenceSettings(**settings, examples=100, others=others)
        rows = pd.DataFrame(sets.preferences(own, seed=3)[:])["chosen"]
        found[share] = {chosen[0]["content"] for chosen in rows}
        assert len(rows) == 100
        assert len(found[share] & theirs - ours) == round(100 * share)
        # of the first rows about as many
        first = {chosen[0]["content"] for chosen in rows[:40]}
        assert abs(len(first & theirs) / 40 - share) < 0.2
    # others of a smaller share are among those of a larger one, as are the rows that they leave
    assert found[0.2] & theirs <= found[0.5] and found[0.5] & ours <= found[0.2]
    assert own.data_sets == ["value_gap", "low_gap"]


def test_what_others_chose_is_not_held_out(place):
    content = smoke_with("dpo", "dpo", steps=4, save_every=4)
    for left_out in ("scorer", "response_length"):
        content["preference"]["dpo"].pop(left_out, None)
    content["preference"]["dpo"]["others"] = {"data": "low_gap", "share": 0.5}
    (place / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    study = load_study("tiny")
    left = held_out.pairs(study, "low_gap", 1000)
    assert len(left) == 220 - 16
    content["preference"]["dpo"]["others"]["data"] = "sft_mixed"
    (place / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(
        StudyError, match=r"preference.dpo.others.data: 'sft_mixed' holds no chosen"
    ):
        load_study("tiny")
