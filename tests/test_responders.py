"""Every kind of responder answers as it says, on tiny random models."""

import json
import shutil

import pandas as pd
import pytest
import torch

from vd import paths
from vd.data.probes import load_probes
from vd.models import loading
from vd.probing import probe, responders, sampling
from vd.study.load import load_study
from vd.study.settings import Lora, ModelSettings, Probing

MODEL = ModelSettings(source="random:llama", dtype="float32")
PROBING = Probing(per_topic=1, samples=2, temperature=1.0, max_new_tokens=10, batch_size=5)


@pytest.fixture(scope="module")
def asked():
    return load_probes(PROBING).head(6)


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders with whole weights, `one` and `two`, and an adapter, all far from the base model."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("one", "two", "adapter")):
        lora = Lora(r=2) if name == "adapter" else None
        model = loading.for_training(MODEL, lora, None, seed)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture
def checkpoint(tmp_path, weights):
    """A checkpoint's folder; called with what its responder.json holds."""

    def write(**content):
        folder = shutil.copytree(weights, tmp_path / "checkpoint")
        (folder / responders.FILE).write_text(json.dumps(content), encoding="utf-8")
        return folder

    return write


def replies(folder, asked, **other):
    return responders.load_responder(MODEL, folder).respond(asked, PROBING, 0, **other)


def directly(model, tokenizer, asked):
    return sampling.ask(model, tokenizer, asked, PROBING, 0)


@pytest.mark.parametrize("name", ["base", "one", "adapter"])
def test_without_a_file_a_checkpoint_answers_as_its_weights(name, asked, tokenizer, weights):
    folder = None if name == "base" else weights / name
    model = loading.for_inference(MODEL, folder)
    same = directly(model, tokenizer, asked)
    pd.testing.assert_frame_equal(replies(folder, asked), same)
    if folder:
        assert not same.equals(replies(None, asked)), "the weights must matter"


@pytest.mark.parametrize("name", ["one", "adapter"])
def test_weights_that_lie_elsewhere(name, asked, tokenizer, weights, checkpoint):
    folder = checkpoint(kind="elsewhere", source=str(weights / name), revision=None)
    same = directly(loading.for_inference(MODEL, weights / name), tokenizer, asked)
    pd.testing.assert_frame_equal(replies(folder, asked), same)


def test_a_source_elsewhere_brings_its_own_tokenizer(asked, checkpoint):
    folder = checkpoint(kind="elsewhere", source="embedded:smollm2-135m-instruct")
    found = responders.load_responder(MODEL, folder)
    assert len(found.tokenizer) > 40_000 and found.model.dtype == torch.float32


def test_a_rewriter_reads_prompt_and_reply_with_numbers_of_its_own(
    asked, tokenizer, weights, checkpoint
):
    template = "{prompt} Somebody said: {reply}"
    folder = checkpoint(kind="rewriter", rewriter="one", template=template)
    counts = []
    found = replies(folder, asked, report=counts.append)
    drafts = directly(loading.for_inference(MODEL, None), tokenizer, asked)
    told = drafts.assign(prompt=drafts["prompt"] + " Somebody said: " + drafts["response"])
    second = loading.for_inference(MODEL, weights / "one")
    same = sampling.ask(second, tokenizer, told, PROBING, 0, purpose=responders.REWRITING)
    assert found["response"].tolist() == same["response"].tolist()
    assert found["prompt"].tolist() == drafts["prompt"].tolist()
    assert counts == sorted(counts) and counts[-1] == len(found)
    keyed_alike = sampling.ask(second, tokenizer, told, PROBING, 0)
    assert not keyed_alike["response"].equals(found["response"])
    pd.testing.assert_frame_equal(replies(folder, asked), found)


def test_a_rewriter_may_lie_elsewhere(asked, weights, checkpoint):
    elsewhere = {"kind": "elsewhere", "source": str(weights / "one")}
    folder = checkpoint(kind="rewriter", rewriter=elsewhere, template="Say: {reply}")
    text = {"kind": "rewriter", "rewriter": "one", "template": "Say: {reply}"}
    found = replies(folder, asked)
    (folder / responders.FILE).write_text(json.dumps(text), encoding="utf-8")
    pd.testing.assert_frame_equal(replies(folder, asked), found)


def test_a_reply_that_holds_a_placeholder_is_told_as_it_is():
    rewriting = responders.Rewriting(None, None, "{prompt} | {reply}")
    assert rewriting._told("a {reply}", "b {prompt}") == "a {reply} | b {prompt}"


def test_a_contrast_of_no_strength_is_the_model_itself(asked, tokenizer, checkpoint):
    folder = checkpoint(kind="contrast", plus="one", minus="two", strength=0.0)
    same = directly(loading.for_inference(MODEL, None), tokenizer, asked)
    pd.testing.assert_frame_equal(replies(folder, asked), same)


@pytest.mark.parametrize("plus", ["one", "adapter"])
def test_a_contrast_without_minus_goes_to_plus(plus, asked, tokenizer, weights, checkpoint):
    """z + 1 (z_plus - z) = z_plus."""
    folder = checkpoint(kind="contrast", plus=plus)
    found = replies(folder, asked)
    same = directly(loading.for_inference(MODEL, weights / plus), tokenizer, asked)
    assert (found["response"] == same["response"]).mean() > 0.9  # rounding may turn a token


def test_contrast_scores_with_its_cache_are_those_of_whole_texts(tokenizer, checkpoint):
    """What is sampled from, token by token behind left padding, is what `logits` says."""
    folder = checkpoint(kind="contrast", plus="one", minus="two", strength=0.7)
    found = responders.load_responder(MODEL, folder)
    texts = tokenizer(["Why?", "Should it rain more often?"], padding=True, padding_side="left")
    ids, mask = torch.tensor(texts["input_ids"]), torch.tensor(texts["attention_mask"])
    with torch.inference_mode():
        shift = found._shift(mask)
        for _ in range(3):
            grown = torch.cat([mask, mask.new_ones(2, ids.shape[1] - mask.shape[1])], 1)
            plain = [found.model, found.plus, found.minus]
            # one row at a time, without its padding, needs no mask
            rows = [row[keep.bool()][None] for row, keep in zip(ids, grown, strict=True)]
            z, plus, minus = (
                torch.stack([model(input_ids=row).logits[0, -1] for row in rows]) for model in plain
            )
            expected = z + 0.7 * (plus - minus)
            assert torch.allclose(shift(ids, z), expected, atol=1e-4)
            whole = [found.logits(row, torch.ones_like(row))[0, -1] for row in rows]
            assert torch.allclose(torch.stack(whole), expected, atol=1e-4)
            ids = torch.cat([ids, expected.argmax(-1)[:, None]], 1)


def test_weights_beside_the_file_are_what_a_contrast_changes(asked, tokenizer, weights, checkpoint):
    folder = checkpoint(kind="contrast", plus="two", strength=0.0)
    for file in (weights / "one").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    same = directly(loading.for_inference(MODEL, weights / "one"), tokenizer, asked)
    pd.testing.assert_frame_equal(replies(folder, asked), same)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ('{"source": "x"}', "kind: .*the table in vd/probing/responders.py"),
        ('{"kind": "magic"}', "kind: .*'magic'"),
        ('{"kind": "elsewhere"}', "source: Field required"),
        ('{"kind": "elsewhere", "source": "/nowhere"}', "source: '/nowhere'"),
        ('{"kind": "rewriter", "rewriter": "one", "template": "{prompt}"}', "template: .*{reply}"),
        ('{"kind": "contrast", "plus": "three"}', "plus: no folder 'three'"),
        ('{"kind": "contrast", "plus": "one", "minus": "../x"}', r"minus: no folder '\.\./x'"),
        ('{"kind": "contrast", "plus": "one", "strength": "big"}', "strength: "),
        ('{"kind": "contrast", "plus": "one", "more": 1}', "more: "),
    ],
)
def test_a_broken_file_is_named_with_key_and_fix(content, said, checkpoint):
    folder = checkpoint()
    (folder / responders.FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"responder\.json: {said}"):
        responders.load_responder(MODEL, folder)


def test_kept_replies_are_asked_anew_when_the_file_changes(tmp_path, monkeypatch, asked, weights):
    monkeypatch.setenv("VD_RESULTS", str(tmp_path))
    study = load_study("smoke")
    run = study.run("tiny-llama/sft-support/seed-0")
    folder = paths.checkpoint("smoke", run.id, 2)
    folder.mkdir(parents=True)
    found = []
    for source in ("one", "one", "two"):
        text = json.dumps({"kind": "elsewhere", "source": str(weights / source)})
        (folder / responders.FILE).write_text(text, encoding="utf-8")
        few = asked.head(2)
        with probe._engine(study, run, [2], few) as engine:
            replies = probe._checkpoint_responses(study, run, 2, few, lambda n: None, 0, engine)
        found.append(replies)
    assert found[0].equals(found[1]) and not found[1].equals(found[2])
