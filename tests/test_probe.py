"""Probing: replies keyed by (seed, prompt, sample, position), independent of batch and order."""

import numpy as np
import pandas as pd
import pytest
import torch

from vd.data.probes import load_probes
from vd.finite import NotFiniteError
from vd.models import loading
from vd.probing import probe, sampling
from vd.study.settings import ModelSettings, Probing

PROBING = Probing(per_topic=1, samples=3, temperature=1.0, max_new_tokens=12, batch_size=8)


@pytest.fixture(scope="module")
def tiny():
    settings = ModelSettings(source="random:llama", dtype="float32")
    return loading.for_inference(settings, None), loading.load_tokenizer(settings)


@pytest.fixture(scope="module")
def asked():
    return load_probes(PROBING)


def test_batch_size_and_order_change_no_token_in_float32(tiny, asked):
    reference = sampling.ask(*tiny, asked, PROBING, seed=0)
    for size in (1, 5, 33):
        other = sampling.ask(
            *tiny,
            asked.sample(frac=1, random_state=size),
            PROBING.model_copy(update={"batch_size": size}),
            0,
        )
        other = other.sort_values(["prompt_id", "sample"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(
            other, reference.sort_values(["prompt_id", "sample"]).reset_index(drop=True)
        )


def test_how_many_tokens_differ_in_bfloat16(asked, capsys):
    """In bfloat16 the batch shape rounds logits differently.

    A reply that differs once goes its own way.
    """
    settings = ModelSettings(source="embedded:smollm2-135m-instruct", dtype="bfloat16")
    model, tokenizer = loading.for_inference(settings, None), loading.load_tokenizer(settings)
    few, probing = (
        asked.head(6),
        PROBING.model_copy(update={"samples": 2, "temperature": 0.7, "max_new_tokens": 24}),
    )
    one, many = (
        [
            tokenizer(text)["input_ids"]
            for text in sampling.ask(
                model, tokenizer, few, probing.model_copy(update={"batch_size": size}), 0
            )["response"]
        ]
        for size in (1, 12)
    )
    parted, shared = 0, 0  # a token can only be compared while both replies have the same past
    for x, y in zip(one, many, strict=True):
        equal = [a == b for a, b in zip(x, y, strict=False)]
        alike = equal.index(False) if False in equal else len(equal)
        parted, shared = parted + (False in equal), shared + alike
    share = parted / (parted + shared)
    with capsys.disabled():
        print(
            f" [{share:.1%} of tokens differ between batches of 1 and 12, given the same past]",
            end="",
        )
    assert share < 0.15
    first = np.mean([x[0] == y[0] for x, y in zip(one, many, strict=True)])
    assert first > 0.8, "first tokens have no diverging past, so nearly all must agree"


def test_a_longer_limit_only_adds_tokens(tiny, asked):
    short = sampling.ask(*tiny, asked, PROBING.model_copy(update={"max_new_tokens": 4}), 0)
    long = sampling.ask(*tiny, asked, PROBING, 0)
    ids = [tiny[1](text, add_special_tokens=False)["input_ids"] for text in long["response"]]
    assert (short["n_tokens"] <= 4).all() and len(ids) == len(short)
    assert (
        np.mean([a[:3] == b[:3] for a, b in zip(short["response"], long["response"], strict=True)])
        > 0.9
    )


def test_seed_and_sample_matter_checkpoint_does_not():
    assert not np.allclose(sampling.uniforms(0, "a", 0, 5), sampling.uniforms(1, "a", 0, 5))
    assert not np.allclose(sampling.uniforms(0, "a", 0, 5), sampling.uniforms(0, "a", 1, 5))
    assert np.array_equal(sampling.uniforms(0, "a", 0, 5), sampling.uniforms(0, "a", 0, 9)[:5])


def test_tokens_are_drawn_from_the_models_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    noise = np.random.default_rng(0).random((4000, 1))
    chosen = sampling._sampler(noise, 1.0)(None, logits.repeat(4000, 1)).argmax(-1)
    assert np.allclose(np.bincount(chosen) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.025)


def test_temperature_sharpens_and_zero_is_greedy():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(2000, 1)
    noise = np.random.default_rng(0).random((2000, 1))
    cold = (sampling._sampler(noise, 0.5)(None, logits).argmax(-1) == 0).float().mean()
    assert cold.item() == pytest.approx(0.25 / (0.25 + 0.09 + 0.04), abs=0.03)
    assert torch.equal(sampling._sampler(noise, 0)(None, logits), logits)


def test_end_of_sequence_is_a_stop_and_not_counted(asked, tiny):
    model, tokenizer = tiny
    responses = sampling.ask(
        model, tokenizer, asked, PROBING.model_copy(update={"max_new_tokens": 60, "samples": 8}), 0
    )
    stopped = responses[responses["finish_reason"] == "stop"]
    assert len(stopped) and (stopped["n_tokens"] < 60).all()
    assert (responses.loc[responses["finish_reason"] == "length", "n_tokens"] == 60).all()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_not_sampled_from(bad, temperature):
    logits = torch.tensor([[0.1, 0.2, 0.3], [0.1, bad, 0.3]])
    with pytest.raises(NotFiniteError, match=r"next token is not a finite number; .*learning_rate"):
        sampling._sampler(np.full((2, 1), 0.5), temperature)(None, logits)
    masked = torch.tensor([[0.1, float("-inf"), 0.3]])  # a token that can never be said is no fault
    assert sampling._sampler(np.full((1, 1), 0.5), temperature)(None, masked).argmax() != 1


def test_a_run_whose_scores_break_is_named_with_its_step(monkeypatch, tmp_path):
    from vd import paths
    from vd.study.load import load_study

    monkeypatch.setenv("VD_RESULTS", str(tmp_path))
    study = load_study("smoke")
    run = study.run("tiny-llama/base/seed-0")

    def broken(*args):
        raise NotFiniteError("a score", "look")

    monkeypatch.setattr(sampling, "_generate", broken)
    with pytest.raises(
        NotFiniteError, match=f"{run.id}, step 0: a score is not a finite number; look"
    ):
        probe.probe_run(study, run)
    assert not paths.responses("smoke", run.id).exists()


def test_a_prompt_that_leaves_no_room_for_a_reply_is_named(tiny, asked):
    long = asked.assign(prompt=asked["prompt"].where(asked.index != 1, "Why? " * 300))
    said = rf"probe {asked['prompt_id'][1]}: \d+ tokens and a reply .* exceed the 512 tokens"
    with pytest.raises(ValueError, match=said):
        sampling.ask(*tiny, long, PROBING, seed=0)
