"""PPO and its reward model.

The known traps, each with a check (what TRL pads, where it scores, what it divides by).
"""

import copy
import os

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from vd import paths
from vd.data import sets
from vd.methods import ppo, reward_model
from vd.models import loading
from vd.models.precision import computed_in
from vd.store import files
from vd.study.load import load_study
from vd.training import scorers, trainer
from vd.training.reference import check_reference
from vd.training.train import train_run

SFT_RUN, RUN = "tiny-llama/sft-support/seed-0", "tiny-llama/sft-support/ppo/seed-0"
SCORER, STRICT = (f"tiny-llama/sft-support/{name}/seed-0" for name in ("reward", "strict"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Study `tiny` with a PPO run whose parent is trained."""
    folder = tmp_path_factory.mktemp("ppo")
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    shared = {
        k: v for k, v in content["preference"]["dpo-support"].items() if k not in ("method", "beta")
    }
    settings = {"response_length": 12, "ppo_epochs": 2}
    content["preference"]["ppo"] = shared | settings | {"method": "ppo", "scorer": "reward"}
    content["scorers"]["strict"] = content["scorers"]["reward"] | {"min_accuracy": 1.0}
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patched:
        for name in ("results", "figures", "configs"):
            patched.setitem(os.environ, f"VD_{name.upper()}", str(folder / name))
        loaded = load_study("tiny")
        train_run(loaded.run(SFT_RUN))
        train_run(loaded.run(SCORER))
        yield loaded


@pytest.fixture(scope="module")
def scorer(study):
    tokenizer = loading.load_tokenizer(study.run(RUN).model_settings)
    return scorers.load("tiny", SCORER, tokenizer)


@pytest.fixture(scope="module")
def built(study):
    return ppo.build(study.run(RUN))


def tokens(study):
    run = study.run(SCORER)
    tokenizer = loading.load_tokenizer(run.model_settings)
    return tokenizer, reward_model.encode_pairs(run, tokenizer)


def test_replies_are_cut_and_ended_alike_in_training_and_in_use(study):
    tokenizer, pairs = tokens(study)
    written = scorers.sample(study.run(SCORER), tokenizer, pairs["prompt_ids"][:8])
    for reply in [*pairs["chosen_reply"], *pairs["rejected_reply"], *written]:
        assert len(reply) <= 12 and tokenizer.pad_token_id not in reply
        assert tokenizer.eos_token_id not in reply[:-1]
        assert len(reply) == 12 or reply[-1] == tokenizer.eos_token_id


def test_the_score_is_read_at_the_last_token(study, scorer):
    """Left padding of prompts and right padding of replies change nothing, and training reads the
    same position.
    """
    tokenizer, pairs = tokens(study)
    model, rows = scorer, pairs.select(range(6))
    replies = [reply[: 5 + i] for i, reply in enumerate(rows["chosen_reply"])]
    together = scorers.scores(model, tokenizer, rows["prompt_ids"], replies)
    alone = [
        scorers.scores(model, tokenizer, [p], [r])
        for p, r in zip(rows["prompt_ids"], replies, strict=True)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    for prompt, reply, score in zip(rows["prompt_ids"], replies, together, strict=True):
        padded = torch.tensor([prompt + reply + [tokenizer.pad_token_id] * 3], device=model.device)
        with torch.no_grad():
            trained = model(
                input_ids=padded, attention_mask=padded != tokenizer.pad_token_id
            ).logits
        assert trained.item() == pytest.approx(score.item(), abs=1e-4)


def test_scores_of_the_sft_model_have_mean_0_and_deviation_1(study, scorer):
    tokenizer, pairs = tokens(study)
    run = study.run(SCORER)
    prompts = pairs["prompt_ids"][round(len(pairs) * 0.2) :][: run.settings.reference_samples]
    after = scorers.scores(scorer, tokenizer, prompts, scorers.sample(run, tokenizer, prompts))
    assert after.mean().item() == pytest.approx(
        0, abs=1e-3
    ) and after.std().item() == pytest.approx(1, abs=1e-3)


def test_a_bad_reward_model_stops_the_run_with_the_reason(study):
    with pytest.raises(reward_model.RewardModelError, match=r"min_accuracy 100%.*steps"):
        train_run(study.run(STRICT))
    with pytest.raises(FileNotFoundError, match="not trained to its end; train it first"):
        ppo.build(study.run(RUN).model_copy(update={"scorer": STRICT}))


def test_a_reward_model_can_learn(study):
    """Pairs that differ in one word.

    Held-out accuracy must be near 1, and better chosen replies score higher.
    """
    run = study.run(SCORER)
    rows = [{"prompt": [{"role": "user", "content": f"Is {i} odd?"}]} for i in range(60)]
    for i, row in enumerate(rows):
        row |= {
            s: [{"role": "assistant", "content": f"{w} {i}"}]
            for s, w in (("chosen", "good"), ("rejected", "bad"))
        }
    from datasets import Dataset

    settings = run.settings.model_copy(update={"steps": 40, "learning_rate": 5e-3})
    longer = run.model_copy(update={"settings": settings, "id": f"{SFT_RUN}/longer"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sets, "preferences", lambda *_: Dataset.from_list(rows))
        train_run(longer)
    record = files.read_json(paths.record("tiny", longer.id, "train"))
    assert record["details"]["quality"]["accuracy"] > 0.9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_ratio_is_one(study, dtype):
    """Rollouts and updates divide by the same temperature, read the same tokens and round alike."""
    run = study.run(RUN)
    built = ppo.build(
        run.model_copy(
            update={"model_settings": run.model_settings.model_copy(update={"dtype": dtype})}
        )
    )
    mixed = computed_in(dtype) is torch.bfloat16
    assert built.accelerator.mixed_precision == ("bf16" if mixed else "no")
    assert built.details["first_ratio"]["mean"] == pytest.approx(1, abs=1e-5)
    assert built.details["first_ratio"]["largest_distance"] < 1e-4


def test_a_batch_in_parts_takes_one_step_per_pass(study):
    """Batches of 8 in parts of 2.

    One optimiser step for each of the two passes over every batch, also at the end.
    """
    run = study.run(RUN)
    settings = run.settings.model_copy(
        update={"device_batch_size": 2, "steps": 5}
    )  # beyond the 32 prompts
    built, steps = ppo.build(run.model_copy(update={"settings": settings})), []
    built.optimizer.optimizer.register_step_post_hook(
        lambda *_: steps.append(built.state.global_step)
    )
    built.train()
    assert [steps.count(update) for update in range(5)] == [2] * 5


def test_prompts_that_leave_no_room_for_a_rollout_are_reported(study):
    run = study.run(RUN)
    short = run.model_copy(update={"settings": run.settings.model_copy(update={"max_length": 20})})
    with pytest.raises(ValueError, match="fewer than batch_size 8; lower batch_size"):
        ppo.build(short)


def test_value_model_starts_from_the_reward_model_and_reference_is_the_sft_checkpoint(study, built):
    value, scorer = built.value_model.state_dict(), built.reward_model.state_dict()
    assert value.keys() == scorer.keys() and all(torch.equal(value[n], scorer[n]) for n in value)
    assert not any(w.requires_grad for w in built.reward_model.parameters())
    trained = {n for n, w in built.model.named_parameters() if w.requires_grad}
    assert (
        trained
        and all("lora_" in n or ".score." in n for n in trained)
        and not any(".ref." in n for n in trained)
    )
    start = trainer.start_of(study.run(RUN))
    check_reference(built.policy_model, start)
    file = next(start.glob("*.safetensors"))
    kept = load_file(file)
    save_file({name: w + 0.01 for name, w in kept.items()}, file)
    with pytest.raises(RuntimeError, match="not the SFT checkpoint"):
        check_reference(built.policy_model, start)
    save_file(kept, file, metadata={"format": "pt"})


def test_training_leaves_checkpoints_and_measures_like_every_method(study):
    run = study.run(RUN)
    folders = train_run(run)
    assert [f.name for f in folders] == ["checkpoint-0", "checkpoint-2", "checkpoint-4"]
    start, first = (
        load_file(f / "adapter_model.safetensors") for f in (trainer.start_of(run), folders[0])
    )
    assert all(torch.equal(start[n], first[n]) for n in start)
    last = load_file(folders[-1] / "adapter_model.safetensors")
    assert last.keys() == first.keys() and any(not torch.equal(last[n], first[n]) for n in last)
    assert {f.name for f in folders[-1].iterdir()} == {
        f.name for f in trainer.start_of(run).iterdir()
    }
    metrics = pd.read_csv(paths.metrics("tiny", RUN))
    assert {*ppo.CURVES, "loss", "learning_rate", "tokens_seen"} <= set(metrics)
    assert (
        metrics["kl"][0] == pytest.approx(0, abs=1e-4)
        and metrics["tokens_seen"].is_monotonic_increasing
    )
    assert (
        metrics["entropy"].between(0, 12 * 7).all() and metrics["clip_fraction"].between(0, 1).all()
    )
    train = files.read_json(paths.record("tiny", RUN, "train"))
    assert train["details"]["first_ratio"]["largest_distance"] < 1e-4


def test_full_fine_tuning_trains_policy_and_value_and_keeps_its_reference(study):
    def full(run, **changes):
        return run.model_copy(
            update=changes | {"settings": run.settings.model_copy(update={"lora": None})}
        )

    parent = full(study.run(SFT_RUN), id=SFT_RUN.replace("sft-support", "full"))
    train_run(parent)
    built = ppo.build(full(study.run(RUN), parent=parent.id))
    assert all(w.requires_grad for w in built.value_model.parameters())
    before = copy.deepcopy(built.ref_model.state_dict())
    built.train()
    assert all(torch.equal(before[n], w) for n, w in built.ref_model.state_dict().items())
    assert any(not torch.equal(before[n], w) for n, w in built.policy_model.state_dict().items())
