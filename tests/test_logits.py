"""Yes against No at the first token: spellings, padding, what answers, files."""

import numpy as np
import pandas as pd
import pytest
import torch

from vd import paths
from vd.drift import acquiescence
from vd.models import loading
from vd.probing import logits, probe, responders
from vd.study.load import load_study
from vd.study.settings import Bootstrap, ModelSettings

TINY = ModelSettings(source="random:llama", dtype="float32")
SMOL = ModelSettings(source="embedded:smollm2-135m-instruct", dtype="float32")
ASKED = pd.DataFrame(
    {
        "prompt_id": ["a", "b", "c"],
        "topic": "t",
        "prompt": ["Tea?", "Should trade between all countries be free of tariffs?", "Why not?"],
    }
)


@pytest.fixture(scope="module")
def tiny():
    return responders.load_responder(TINY, None)


def test_all_spellings_of_one_word_count_and_no_others():
    tokenizer = loading.load_tokenizer(SMOL)
    for word in logits.WORDS:
        found = {tokenizer.decode([i]) for i in logits.spellings(tokenizer, word)}
        assert {word.title(), f" {word.title()}", word, f" {word}"} <= found
        assert {text.strip().lower() for text in found} == {word}
    rare = logits.spellings(tokenizer, "hippopotamuses")
    assert len(rare) == 1 and "Hippopotamuses".startswith(tokenizer.decode(rare))


def test_words_that_begin_alike_cannot_be_read(tiny, monkeypatch):
    monkeypatch.setattr(logits, "WORDS", ("yes", "yes"))
    with pytest.raises(ValueError, match=r"Yes and No begin with one token .* `logits: false`"):
        logits.logit_stance(tiny, ASKED, 2)


def test_odds_are_those_of_each_prompt_alone_by_hand(tiny):
    found = logits.logit_stance(tiny, ASKED, batch_size=2, temperature=0.5)
    assert found["prompt_id"].tolist() == ["a", "b", "c"]
    for row, prompt in zip(found.itertuples(), ASKED["prompt"], strict=True):
        text = tiny.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = tiny.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            scores = tiny.model(ids.to(tiny.model.device)).logits[0, -1].double()
        p, drawn = scores.softmax(-1), (scores / 0.5).softmax(-1)
        yes, no = (float(p[logits.spellings(tiny.tokenizer, w)].sum()) for w in logits.WORDS)
        assert row.log_odds == pytest.approx(np.log(yes / no), abs=1e-4)
        assert row.mass == pytest.approx(yes + no, rel=1e-4)
        of_yes = logits.spellings(tiny.tokenizer, "yes")
        assert row.share_yes == pytest.approx(float(drawn[of_yes].sum()), rel=1e-4)


def test_a_contrast_changes_the_odds_and_a_rewriter_has_none(tiny):
    torch.manual_seed(0)
    plus = loading.for_inference(TINY, None)
    for weight in plus.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    shifted = responders.Contrasting(tiny.model, tiny.tokenizer, plus, tiny.model, 1.0)
    pd.testing.assert_frame_equal(
        logits.logit_stance(shifted, ASKED, 3),
        logits.logit_stance(responders.Responder(plus, tiny.tokenizer), ASKED, 3),
        atol=1e-4,
        rtol=1e-4,
    )
    rewriting = responders.Rewriting(tiny, tiny, "{reply}")
    assert logits.logit_stance(rewriting, ASKED, 3)["log_odds"].isna().all()


def test_every_saved_checkpoint_is_read_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VD_RESULTS", str(tmp_path))
    study = load_study("smoke")
    few = study.probing.model_copy(update={"per_topic": 2, "checkpoints": "last"})
    study = study.model_copy(update={"probing": few})
    base, child = (study.run(f"tiny-llama/{name}/seed-0") for name in ("base", "sft-support"))
    for step in (0, 1, 2):
        model = loading.for_training(child.model_settings, child.settings.lora, None, step)
        for weight in model.parameters():
            if weight.requires_grad and step:
                weight.data += 0.1 * torch.randn_like(weight)
        model.save_pretrained(paths.checkpoint("smoke", child.id, step))
    first = probe.logits_run(study, base)
    found = probe.logits_run(study, child)
    assert list(found.columns) == logits.COLUMNS and set(found["step"]) == {0, 1, 2}
    numbers = ["prompt_id", "yes", "no", "log_odds", "mass"]
    start = found[found["step"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(start[numbers], first[numbers])
    monkeypatch.setattr(responders, "load_responder", lambda *_: pytest.fail("all is kept"))
    pd.testing.assert_frame_equal(probe.logits_run(study, child), found)
    polarity = pd.Series(1, found["prompt_id"].unique())
    polarity[::2] = -1
    odds = acquiescence.logit_stance("smoke", [base.id, child.id])
    _, moved = acquiescence.tables(odds, polarity, Bootstrap(resamples=100))
    assert set(moved["run"]) == {child.id}, "the base model has one checkpoint"
