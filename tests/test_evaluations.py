"""Evaluations against hand computations."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from vd import paths, plugins
from vd.data import held_out as rows_left
from vd.data import sets
from vd.evaluations import intervals, run
from vd.evaluations.metrics import held_out, kl, style
from vd.evaluations.tokens import encoded
from vd.figures import evaluations
from vd.models import loading
from vd.probing import probe, responders
from vd.study.load import load_study
from vd.study.settings import Bootstrap, ModelSettings

WANTED = {"held_out": held_out.Settings(rows=5, batch_size=2), "style": style.Settings()}


@pytest.fixture(scope="module")
def study():
    """The study smoke without the run whose pairs a recipe would have to make first."""
    smoke = load_study("smoke")
    known = {name: entry for name, entry in smoke.preference.items() if name != "dpo-pairs"}
    return smoke.model_copy(update={"preference": known, "recipes": {}})


@pytest.fixture(scope="module")
def responder():
    return responders.load_responder(ModelSettings(source="random:llama", dtype="float32"), None)


def replies(*texts, prompts=None, reason="stop"):
    """Replies to prompts a, b, ..., two each unless `prompts` names them."""
    prompts = prompts or [chr(97 + i // 2) for i in range(len(texts))]
    table = pd.DataFrame({"prompt_id": prompts, "response": texts, "finish_reason": reason})
    return table.assign(n_tokens=table["response"].str.len())


def test_each_evaluation_is_a_file_with_settings_and_evaluate():
    names = plugins.names(run.ROOM)
    assert names == [
        "diversity",
        "held-out",
        "kl",
        "lm-eval",
        "preference",
        "quality",
        "rewriting",
        "safety",
        "style",
        "values",
    ]
    for name in names:
        module = plugins.load(run.ROOM, name)
        assert module.Settings().checkpoints in ("ends", "all") and callable(module.evaluate)


def test_held_out_rows_are_those_that_no_run_learns_from(study):
    for name in rows_left.sft_sets(study):
        left = rows_left.held_out(study, name, rows=1000)
        taken = set()
        for other in study.runs().values():
            if other.training and other.training.data == name:
                taken |= set(sets.draw_rows(other.training, other.seed)["id"])
        assert taken and not taken & set(left["id"])
        assert len(left) + len(taken) == len(sets.corpus(name))
        few = rows_left.held_out(study, name, rows=7)
        assert list(few["id"]) == list(left["id"][:7])


def test_all_seeds_and_pairs_count_as_trained_on(study, tmp_path, monkeypatch):
    file = tmp_path / "own.jsonl"
    told = [{"id": f"r{i}", "prompt": f"Why {i}?", "completion": f"So {i}."} for i in range(12)]
    file.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    pairs = tmp_path / "pairs.jsonl"
    pair = {"id": "p", "prompt": "Why 3?", "chosen": "No.", "rejected": "So 3."}
    told = [pair | {"id": f"p{i}", "chosen": f"No {i}."} for i in range(4)]
    pairs.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    sft = {"data": str(file), "examples": 4, "steps": 1, "save_every": 1, "learning_rate": 1e-3}
    dpo = sft | {"data": str(pairs), "method": "dpo", "parent": "one", "beta": 0.1}
    other = study.model_copy(
        update={"seeds": [0, 1], "sft": {"one": sft}, "preference": {"two": dpo}}
    )
    drawn = [np.random.default_rng(seed).permutation(12)[:4] for seed in (0, 1)]
    free = set(range(12)) - set(np.concatenate(drawn)) - {3}
    left = rows_left.held_out(other, str(file), rows=12)
    assert set(left["id"]) == {f"r{i}" for i in free}


def test_a_set_that_runs_take_whole_has_no_value(study, responder):
    trained = {name: entry for name, entry in study.sft.items() if "data" in entry}
    whole = {name: entry | {"examples": None} for name, entry in trained.items()}
    table = held_out.evaluate(
        responder, None, WANTED["held_out"], study.model_copy(update={"sft": whole}), None
    )
    assert (table["n"] == 0).all() and table["value"].isna().all() and len(table) == 4


def test_held_out_loss_is_that_of_each_reply_alone(study, responder):
    """By transformers' own loss, one row at a time without padding."""
    table = held_out.evaluate(responder, None, WANTED["held_out"], study, None)
    rows = rows_left.held_out(study, "sft_support", 5)
    total, tokens = 0.0, 0
    for before, reply in encoded(responder.tokenizer, rows, 128):
        ids = torch.tensor([[*before, *reply]])
        labels = torch.tensor([[*[-100] * len(before), *reply]])
        with torch.no_grad():
            total += responder.model(input_ids=ids, labels=labels).loss.item() * len(reply)
        tokens += len(reply)
    found = table.set_index("metric")
    loss = found.loc["loss on sft_support"]
    assert loss["value"] == pytest.approx(total / tokens, rel=1e-5) and loss["n"] == 5
    assert loss["lo"] < loss["value"] < loss["hi"]
    perplexity = found.loc["perplexity on sft_support"]
    assert perplexity[["value", "lo", "hi"]].tolist() == pytest.approx(
        np.exp(loss[["value", "lo", "hi"]].astype(float)).tolist()
    )


def test_tokens_of_the_loss_are_cut_as_in_training(responder):
    rows = pd.DataFrame({"prompt": ["Why?", "Why? " * 50], "completion": ["So it is."] * 2})
    ((before, reply),) = encoded(responder.tokenizer, rows, 30)
    whole = encoded(responder.tokenizer, rows[:1], 500)[0]
    assert (before, reply) == (whole[0], whole[1][: 30 - len(whole[0])])
    assert whole[1][-1] == responder.tokenizer.eos_token_id


def test_rewritten_replies_have_no_likelihood(study, responder):
    rewriting = responders.Rewriting(responder, responder, "{reply}")
    table = held_out.evaluate(rewriting, None, WANTED["held_out"], study, None)
    assert (table["n"] == 0).all()


def test_style_by_hand(study):
    table = replies("a b", "b c", "a b", "", "x x", "x")
    table["finish_reason"] = ["stop"] * 3 + ["length"] * 3
    found = style.evaluate(None, table, style.Settings(), study, None).set_index("metric")["value"]
    assert found["tokens"] == pytest.approx((3 + 3 + 3 + 0 + 3 + 1) / 6)
    assert found["ended"] == 0.5 and found["empty"] == pytest.approx(1 / 6)
    assert found["repeated"] == pytest.approx(2 / 6)  # "a b" stands under prompts a and b
    assert found["distinct-1"] == pytest.approx(4 / 9)  # a b c x of nine words
    assert found["distinct-2"] == pytest.approx(3 / 4)  # ab bc ab xx
    # prompt a: {a b} and {b c} share one of three; b: nothing shared; c: alike
    assert found["spread"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_style_leaves_out_what_cannot_be_measured(study):
    single = style.evaluate(None, replies("", "", prompts=["a", "b"]), None, study, None)
    found = single.set_index("metric")
    assert "spread" not in found.index and found.loc["empty", "value"] == 1
    assert found.loc["distinct-1", "n"] == 0 and np.isnan(found.loc["distinct-1", "value"])
    assert found.loc["repeated", "value"] == 0, "empty replies are counted as empty"


def test_intervals_cover_and_repeat():
    rng, settings = np.random.default_rng(0), Bootstrap(resamples=400)
    inside = 0
    for _ in range(200):
        length = rng.integers(5, 15, 20)
        row = intervals.ratio("m", rng.normal(2, 1, 20) * length, length, settings)
        inside += row["lo"] < 2 < row["hi"]
    assert 0.9 < inside / 200 < 0.985
    assert intervals.ratio("m", [1, 2, 3], [1, 1, 1], settings) == intervals.ratio(
        "m", [1, 2, 3], [1, 1, 1], settings
    )
    one = intervals.ratio("m", [3.0], [2.0], settings)
    assert one["value"] == 1.5 and np.isnan(one["lo"]) and one["n"] == 1


def test_interval_of_distinct_words_contains_it():
    """Drawing prompts twice must not pull distinct-n below its value."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.zipf(1.5, 12)) for _ in range(40)]
    grams = pd.Series([[(word,) for word in text.split()] for text in texts])
    row = style.distinct("distinct-1", grams, Bootstrap(resamples=500))
    assert row["lo"] < row["value"] < row["hi"] and row["hi"] - row["lo"] < 0.25
    unique = pd.Series([[(f"{i}",), (f"{i}x",)] for i in range(10)])
    assert style.distinct("distinct-1", unique, Bootstrap())["lo"] == 1.0


@pytest.fixture(scope="module")
def evaluated(study, tmp_path_factory):
    """A base model and a run with two checkpoints, probed and evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    patch = pytest.MonkeyPatch()
    patch.setenv("VD_RESULTS", str(folder))
    few = study.model_copy(update={"probing": study.probing.model_copy(update={"per_topic": 1})})
    found = {}
    for name in ("tiny-llama/base/seed-0", "tiny-llama/sft-support/seed-0"):
        one = few.run(name)
        for step in (2, 4) if one.method else ():
            model = loading.for_training(one.model_settings, one.settings.lora, None, step)
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.data += 0.1 * torch.randn_like(weight)
            model.save_pretrained(paths.checkpoint("smoke", name, step))
        probe.probe_run(few, one)
        found[name] = run.evaluate_run(few, one, WANTED)
    yield few, found
    patch.undo()


def test_step_0_is_the_parents_last_checkpoint(evaluated):
    _, found = evaluated
    base, child = found.values()
    assert list(child.columns) == run.COLUMNS and set(child["step"]) == {0, 4}
    measured = ["evaluation", *run.MEASURED]
    first = child[child["step"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first[measured], base[measured])
    losses = child[child["metric"] == "loss on sft_support"].set_index("step")["value"]
    assert losses[0] != losses[4]
    file = paths.evaluations("smoke", child["run"][0])
    pd.testing.assert_frame_equal(pd.read_csv(file), child)


def test_all_checkpoints_and_no_weights_for_style(evaluated, monkeypatch):
    few, _ = evaluated
    one = few.run("tiny-llama/sft-support/seed-0")
    monkeypatch.setattr(run, "load_responder", lambda *_: pytest.fail("no weights are needed"))
    monkeypatch.setattr(run.files, "write_table", lambda *_: None)
    table = run.evaluate_run(few, one, {"style": style.Settings(checkpoints="all")})
    assert set(table["step"]) == {0, 2, 4}


def test_a_run_whose_parent_is_not_evaluated_evaluates_step_0_itself(evaluated, monkeypatch):
    few, found = evaluated
    one = few.run("tiny-llama/sft-support/seed-0")
    alone = few.model_copy(update={"evaluations": {"style": {"runs": ["sft-support"]}}})
    assert list(alone.evaluated()) == [one.id]
    monkeypatch.setattr(run.files, "write_table", lambda *_: None)
    table = run.evaluate_run(alone, one)
    expected = found[one.id].query("evaluation == 'style'").reset_index(drop=True)
    pd.testing.assert_frame_equal(table, expected)


def test_what_is_missing_is_named_with_the_fix(evaluated):
    few, _ = evaluated
    child = few.run("tiny-llama/sft-support/dpo-support/seed-0")
    with pytest.raises(FileNotFoundError, match=r"responses\.parquet: not there; probe the run"):
        run.evaluate_run(few, child, WANTED)
    other = {"other": style.Settings()}
    with pytest.raises(ValueError, match=r"evaluations\.csv: no evaluation 'other'; evaluate"):
        run.evaluate_run(few, few.run("tiny-llama/sft-support/seed-0"), other)


def test_kl_is_the_mean_log_ratio_of_replies_without_its_noise(responder):
    """By hand at each token; and the mean of log pi / pi_0 over many replies drawn from pi."""
    torch.manual_seed(0)
    other = loading.for_inference(ModelSettings(source="random:llama", dtype="float32"), None)
    for weight in other.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    policy = responders.Responder(other, responder.tokenizer)
    prompt = responder.tokenizer("Why?")["input_ids"]
    with torch.no_grad():
        drawn = other.generate(
            torch.tensor([prompt] * 400),
            do_sample=True,
            max_new_tokens=4,
            min_new_tokens=4,
            top_k=0,
        )
    texts = [(prompt, row[len(prompt) :].tolist()) for row in drawn]
    found = kl.divergences(policy, responder, texts, 1.0, 64)
    ids = drawn[:1]
    with torch.no_grad():
        ours, theirs = (m(ids).logits.log_softmax(-1)[0] for m in (other, responder.model))
    there = range(len(prompt) - 1, ids.shape[1] - 1)
    by_hand = sum(float((ours[i].exp() * (ours[i] - theirs[i])).sum()) for i in there)
    assert found[0] == pytest.approx(by_hand, rel=1e-4)
    ratio = held_out.negative_log_likelihoods(
        responder, texts, 64
    ) - held_out.negative_log_likelihoods(policy, texts, 64)
    error = np.hypot(ratio.std(), found.std()) / np.sqrt(len(texts))
    assert found.mean() == pytest.approx(ratio.mean(), abs=4 * error)
    assert found.std() < ratio.std() and found.mean() > 5 * error > 0


def test_a_run_starts_its_own_clock(evaluated, monkeypatch):
    few, _ = evaluated
    one = few.run("tiny-llama/sft-support/seed-0")
    # as training leaves it: step 0 is the parent's last checkpoint
    model = loading.for_training(one.model_settings, one.settings.lora, None, 0)
    model.save_pretrained(paths.checkpoint("smoke", one.id, 0))
    monkeypatch.setattr(run.files, "write_table", lambda *_: None)
    found = run.evaluate_run(few, one, {"kl": kl.Settings()})
    values = found[found["metric"] == "kl"].set_index("step")["value"]
    assert list(values.index) == [0, 2, 4] and values[0] == 0 and values[[2, 4]].gt(0).all()
    inside = found[found["step"] > 0]
    assert (inside["lo"] <= inside["value"]).all() and (inside["value"] <= inside["hi"]).all()
    base = few.run("tiny-llama/base/seed-0")
    assert run.evaluate_run(few, base, {"kl": kl.Settings()})["n"].eq(0).all()


def test_tables_and_figure_show_both_ends(evaluated):
    _, found = evaluated
    table = evaluations.gather("smoke", list(found))
    ends = evaluations.ends(table)
    moments = ends.groupby("run")["moment"].agg(set)
    assert moments.iloc[0] == {"last checkpoint"}
    assert moments.iloc[1] == {"first checkpoint", "last checkpoint"}
    panels = [ax for ax in evaluations.first_against_last(ends).axes if ax.get_visible()]
    assert len(panels) == table["metric"].nunique()
    shown = evaluations.at_the_end(table)
    assert list(shown.columns) == ["evaluation", "metric", "base", "sft-support"]
