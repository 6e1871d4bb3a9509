"""Training methods against their equations, and what all methods share.

Checkpoints, resuming, records.
"""

import copy
import json
import math
import shutil

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from vd import paths
from vd.data import sets
from vd.finite import NotFiniteError
from vd.methods import dpo, sft, simpo
from vd.models import loading
from vd.store import files
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.training import reply_logits, trainer
from vd.training.reference import check_reference
from vd.training.train import train_run

# what a run goes on from
NEEDED = ["trainer_state.json", "adapter_model.safetensors"]
NEEDED += ["optimizer.pt", "scheduler.pt", "rng_state.pth"]
SFT_RUN, DPO_RUN = "tiny-llama/sft-support/seed-0", "tiny-llama/sft-support/dpo-support/seed-0"
PPO_RUN = "tiny-llama/sft-support/ppo-support/seed-0"
SIMPO_RUN = "tiny-llama/sft-support/simpo-support/seed-0"


def study_with(place, change=lambda study: None, name="tiny"):
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    change(content)
    (place / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return load_study(name)


def adapters(lora):
    """A change after which every run that is trained trains adapters like these, or all weights."""

    def change(study):
        for section in ("sft", "scorers", "preference"):
            for run in study[section].values():
                if run.get("method") != "given":
                    run["lora"] = copy.deepcopy(lora)

    return change


def loss_of(built, rows):
    """A trainer's loss on a batch of these rows, wherever its model lies."""
    batch = built._prepare_inputs(dict(built.data_collator(rows)))
    return built.compute_loss(built.model, batch).item()


def logits_of(model, ids):
    """Scores (T, V) in front of each token of a text, on the CPU."""
    with torch.no_grad():
        return model(torch.tensor([ids], device=model.device)).logits[0].cpu()


def weights(folder):
    return {
        name: w
        for file in sorted(folder.glob("*.safetensors"))
        for name, w in load_file(file).items()
    }


def test_sft_counts_only_reply_tokens(place):
    """The trainer's loss equals -mean log pi over the tokens after the assistant's turn begins,
    computed by hand.
    """
    run = study_with(place).run(SFT_RUN)
    built = sft.build(run)
    row = next(
        row for row in built.train_dataset if len(row["input_ids"]) < run.settings.max_length
    )
    loss = loss_of(built, [row])

    text = built.processing_class.decode(row["input_ids"])
    turn = "<|im_start|>assistant\n"
    prompt = built.processing_class(text.split(turn)[0] + turn)["input_ids"]

    ids = torch.tensor(row["input_ids"])
    scores = logits_of(built.model, row["input_ids"])[:-1].log_softmax(-1)
    logp = scores.gather(1, ids[1:, None])[:, 0]
    assert row["input_ids"][: len(prompt)] == prompt
    assert loss == pytest.approx(-logp[len(prompt) - 1 :].mean().item(), rel=1e-4)
    assert loss != pytest.approx(-logp.mean().item(), rel=1e-4)


def test_dpo_loss_equals_the_equation(place):
    """A hand-made batch through TRL against L = -log sigmoid(beta (delta_chosen - delta_rejected))
    written out.
    """
    study = study_with(place)
    train_run(study.run(SFT_RUN))
    run = study.run(DPO_RUN)
    built = dpo.build(run)
    with (
        torch.no_grad()
    ):  # move the policy away from its reference, or the loss would be log 2 whatever beta is
        for name, w in built.model.named_parameters():
            if ".default." in name and "lora_B" in name:
                noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
                w.add_(noise.to(w.device) * 0.05)
    rows = [built.train_dataset[i] for i in range(3)]
    loss = loss_of(built, rows)

    def logp(model, prompt, reply):
        ids = torch.tensor(prompt + reply)
        scores = logits_of(model, prompt + reply)[:-1].log_softmax(-1)
        return scores.gather(1, ids[1:, None])[len(prompt) - 1 :, 0].sum()

    policy, total = built.model, 0.0
    for row in rows:
        cut = {
            side: row[f"{side}_ids"][: run.settings.max_length - len(row["prompt_ids"])]
            for side in ("chosen", "rejected")
        }
        delta = {}
        for side, reply in cut.items():
            policy.set_adapter("default")
            moved = logp(policy, row["prompt_ids"], reply)
            policy.set_adapter("ref")
            delta[side] = moved - logp(policy, row["prompt_ids"], reply)
        total += -torch.nn.functional.logsigmoid(
            run.settings.beta * (delta["chosen"] - delta["rejected"])
        ).item()
    assert loss == pytest.approx(total / len(rows), rel=1e-3)
    assert abs(loss - math.log(2)) > 1e-3


@pytest.mark.parametrize("lora", [{"r": 4}, None], ids=["lora", "full"])
def test_reference_is_the_sft_checkpoint(place, lora):
    study = study_with(place, adapters(lora))
    train_run(study.run(SFT_RUN))
    run = study.run(DPO_RUN)
    start = trainer.start_of(run)
    built = dpo.build(run)
    reference = built.model if lora else built.ref_model
    check_reference(reference, start)
    file = next(start.glob("*.safetensors"))
    save_file({name: w + 0.01 for name, w in load_file(file).items()}, file)
    with pytest.raises(RuntimeError, match="not the SFT checkpoint"):
        check_reference(reference, start)


def test_simpo_loss_equals_the_equation(place):
    """A hand-made batch through TRL against L = -log sigmoid(beta (mean logp_w - mean logp_l) -
    gamma) written out.
    """

    def change(study):
        study["preference"]["simpo"] = study["preference"]["dpo-support"] | {
            "method": "simpo",
            "gamma": 0.7,
            "beta": 3.0,
        }

    study = study_with(place, change)
    train_run(study.run(SFT_RUN))
    run = study.run("tiny-llama/sft-support/simpo/seed-0")
    built = simpo.build(run)
    rows = [built.train_dataset[i] for i in range(3)]
    loss = loss_of(built, rows)

    pairs, total = sets.preferences(run.settings, run.seed), 0.0
    for row in pairs.select(range(3)):
        mean = {}
        for side in ("chosen", "rejected"):
            prompt, reply = trainer.encode(built.processing_class, row["prompt"], row[side])
            ids = (prompt + reply)[: run.settings.max_length]
            scores = logits_of(built.model, ids)[:-1].log_softmax(-1)
            ids = torch.tensor(ids)
            mean[side] = scores.gather(1, ids[1:, None])[len(prompt) - 1 :, 0].mean()
        total += -torch.nn.functional.logsigmoid(
            3.0 * (mean["chosen"] - mean["rejected"]) - 0.7
        ).item()
    assert loss == pytest.approx(total / 3, rel=1e-4)
    assert built.cpo_alpha == 0 and not hasattr(built, "ref_model")


@pytest.mark.parametrize(("run_id", "method"), [(DPO_RUN, dpo), (SIMPO_RUN, simpo)])
def test_logits_at_replies_alone_change_neither_loss_nor_gradient(
    place, run_id, method, monkeypatch
):
    study = study_with(place)
    train_run(study.run(SFT_RUN))

    def step():
        built = method.build(study.run(run_id))
        for name, weight in built.model.named_parameters():
            # off the reference, where gradients of some weights are zero
            if ".default." in name and "lora_B" in name:
                noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
                weight.data += 0.05 * noise.to(weight.device)
        batch = built._prepare_inputs(dict(built.data_collator([*built.train_dataset][:3])))
        loss = built.compute_loss(built.model, batch)
        loss.backward()
        grads = {n: w.grad for n, w in built.model.named_parameters() if w.grad is not None}
        return float(loss), built._total_train_tokens, grads

    assert reply_logits.supported(loading.load_base(study.models["tiny-llama"]))
    loss, tokens, grads = step()
    monkeypatch.setattr(reply_logits, "supported", lambda model: False)
    whole, counted, others = step()
    assert loss == pytest.approx(whole, rel=1e-5) and tokens == counted > 0
    assert grads.keys() == others.keys() != set()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, others[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("run_id", "method"), [(DPO_RUN, dpo), (SIMPO_RUN, simpo)])
def test_replies_of_pairs_are_read_as_far_as_a_rollout(place, run_id, method):
    def change(study):
        study["preference"][run_id.split("/")[2]]["response_length"] = 5

    study = study_with(place, change)
    train_run(study.run(SFT_RUN))
    built = method.build(study.run(run_id))
    batch = built.data_collator([*built.train_dataset][:4])
    read = batch["completion_mask"] if method is dpo else batch["chosen_labels"] != -100
    assert read.sum(1).max() == 5


def test_what_is_quicker_on_a_cpu_gives_the_same_loss(place, monkeypatch):
    study = study_with(place)
    rows = [*sft.build(study.run(SFT_RUN)).train_dataset][:4]
    quick = loss_of(sft.build(study.run(SFT_RUN)), rows)
    monkeypatch.setattr(loading, "quick_backward", lambda model: None)
    assert quick == pytest.approx(loss_of(sft.build(study.run(SFT_RUN)), rows), rel=1e-5)


def test_simpo_leaves_out_prompts_that_fill_everything(place):
    def change(study):
        entry = {k: v for k, v in study["preference"]["simpo-support"].items() if k != "max_length"}
        study["preference"]["simpo-support"] = entry | {"max_length": 64}

    study = study_with(place, change)
    train_run(study.run(SFT_RUN))
    run = study.run("tiny-llama/sft-support/simpo-support/seed-0")
    rows = simpo.build(run).train_dataset
    assert 8 <= len(rows) < 32 and all(
        any(label != -100 for label in row["chosen_labels"]) for row in rows
    )


def test_a_reply_ends_with_one_end_token(place):
    tokenizer = loading.load_tokenizer(study_with(place).models["tiny-llama"])
    asked, told = (
        [{"role": "user", "content": "Why?"}],
        [{"role": "assistant", "content": "Because."}],
    )
    prompt, reply = trainer.encode(tokenizer, asked, told)
    assert tokenizer.decode(prompt) == tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    )
    assert (
        tokenizer.decode(reply) == "Because." + tokenizer.eos_token
    )  # and not the newline after it
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_full_fine_tuning_runs_through(place):
    study = study_with(place, adapters(None))
    for run_id in (SFT_RUN, DPO_RUN):
        train_run(study.run(run_id))
    first, last = (weights(paths.checkpoint("tiny", DPO_RUN, step)) for step in (0, 4))
    assert weights(paths.last_checkpoint("tiny", SFT_RUN)).keys() == first.keys() != set()
    assert any(not torch.equal(first[n], last[n]) for n in first)


def test_finished_checkpoints_hold_whole_weights_as_they_are_probed(place, monkeypatch):
    """In bfloat16, rounded as replies need them; the next run starts there and goes on in full."""

    def change(study):
        adapters(None)(study)
        study["models"]["tiny-llama"]["dtype"] = "bfloat16"

    study, folder = study_with(place, change), paths.checkpoint("tiny", SFT_RUN, 4)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "lighten", lambda *_: None)
        train_run(study.run(SFT_RUN))
    full, size = weights(folder), sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    probed = loading.for_inference(study.models["tiny-llama"], folder).state_dict()
    shutil.rmtree(paths.checkpoints("tiny", SFT_RUN))
    train_run(study.run(SFT_RUN))
    light = weights(folder)
    assert {w.dtype for w in light.values()} == {torch.bfloat16} and light.keys() == full.keys()
    assert all(torch.equal(light[name], probed[name].cpu()) for name in light)
    assert sum(f.stat().st_size for f in folder.glob("*.safetensors")) < 0.6 * size
    assert any(not torch.equal(light[name].float(), full[name]) for name in light)
    train_run(study.run(DPO_RUN))
    start = weights(paths.checkpoint("tiny", DPO_RUN, 0))
    assert all(torch.equal(start[name], light[name]) for name in light)


def test_checkpoints_start_at_the_parent_and_end_at_the_last_step(place):
    study = study_with(place, lambda s: s["sft"]["sft-support"].update(steps=5))
    folders = train_run(study.run(SFT_RUN))
    assert [f.name for f in folders] == [f"checkpoint-{s}" for s in (0, 2, 4, 5)]
    train_run(study.run(DPO_RUN))
    start, parent = weights(paths.checkpoint("tiny", DPO_RUN, 0)), weights(folders[-1])
    assert start.keys() == parent.keys() and all(torch.equal(start[n], parent[n]) for n in start)
    assert not list(folders[-1].glob("optimizer*")), "optimiser state is removed after training"


def test_every_run_of_a_chain_starts_where_its_parent_ended(place):
    def change(study):
        study["sft"]["more"] = study["sft"]["sft-support"] | {"parent": "sft-support"}
        study["preference"]["dpo-support"]["parent"] = "sft-support/more"
        study["preference"]["simpo-support"]["parent"] = "sft-support/more/dpo-support"
        study["preference"].pop("dpo-pairs")
        study["findings"] = {}

    study, lineage = study_with(place, change), "tiny-llama/sft-support"
    train_run(study.run(f"{lineage}/seed-0"))
    for name in ("more", "dpo-support", "simpo-support"):
        parent, lineage = f"{lineage}/seed-0", f"{lineage}/{name}"
        train_run(study.run(f"{lineage}/seed-0"))
        start = weights(paths.checkpoint("tiny", f"{lineage}/seed-0", 0))
        ended = weights(paths.last_checkpoint("tiny", parent))
        assert start.keys() == ended.keys() and all(start[n].equal(ended[n]) for n in start), name


@pytest.mark.parametrize("run_id", [SFT_RUN, DPO_RUN, PPO_RUN])
def test_early_steps_are_kept_beside_the_regular_ones(place, run_id):
    def change(study):
        for section in ("sft", "preference"):
            for entry in study[section].values():
                if "save_every" in entry:
                    entry |= {"save_every": 3, "save_at": [1, 2]}

    study = study_with(place, change)
    for before in (SFT_RUN, *([study.run(run_id).scorer] if run_id == PPO_RUN else [])):
        train_run(study.run(before))
    if run_id != SFT_RUN:
        train_run(study.run(run_id))
    assert paths.steps("tiny", run_id) == [0, 1, 2, 3, 4]
    with pytest.raises(StudyError, match=r"save_at: the run has 4 steps; write steps up to that"):
        study_with(place, lambda s: s["sft"]["sft-support"].update(save_at=[5]))


def test_metrics_and_record(place):
    study = study_with(place)
    train_run(study.run(SFT_RUN))
    metrics = pd.read_csv(paths.metrics("tiny", SFT_RUN))
    assert metrics["step"].tolist() == [1, 2, 3, 4] and metrics["loss"].notna().all()
    train = files.read_json(paths.record("tiny", SFT_RUN, "train"))
    assert train["run"]["settings"]["learning_rate"] == 1e-3 and train["tokens_seen"] > 0
    assert train["effective_batch_size"] == 8 and train["versions"]["trl"] == "1.12.0"
    assert train["trainable_parameters"] == sum(
        weight.numel() for weight in weights(paths.last_checkpoint("tiny", SFT_RUN)).values()
    )


class Interrupted(Exception):
    pass


def train_until(step, run, monkeypatch):
    """Train a run and interrupt it when it has logged `step`, before that step's checkpoint."""

    def stop(self, args, state, *rest, **kwargs):
        if state.global_step == step:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Report, "on_log", stop)
        with pytest.raises(Interrupted):
            train_run(run)


def test_an_interrupted_run_resumes_and_ends_where_it_would_have(place, monkeypatch):
    study = study_with(place, lambda s: s["sft"]["sft-support"].update(steps=6))
    run = study.run(SFT_RUN)
    expected = weights(train_run(run)[-1])
    shutil.rmtree(paths.run("tiny", SFT_RUN))

    train_until(5, run, monkeypatch)
    assert not paths.record("tiny", SFT_RUN, "train").exists()
    resumed = weights(train_run(run)[-1])
    assert files.read_json(paths.record("tiny", SFT_RUN, "train"))["resumed_from_step"] == 4
    assert all(torch.equal(expected[n], resumed[n]) for n in expected)
    metrics = pd.read_csv(paths.metrics("tiny", SFT_RUN))
    assert len(metrics) == 6 and metrics["tokens_seen"].is_monotonic_increasing


def test_a_changed_run_does_not_resume(place, monkeypatch):
    train_until(3, study_with(place).run(SFT_RUN), monkeypatch)
    train_run(
        study_with(place, lambda s: s["sft"]["sft-support"].update(learning_rate=2e-3)).run(SFT_RUN)
    )
    assert files.read_json(paths.record("tiny", SFT_RUN, "train"))["resumed_from_step"] == 0


@pytest.mark.parametrize("run_id", [SFT_RUN, DPO_RUN])
def test_a_finished_run_is_left_as_it_is(place, run_id):
    study = study_with(place)
    train_run(study.run(SFT_RUN))
    run, file = study.run(run_id), paths.record("tiny", run_id, "train")
    train_run(run)
    written = file.stat().st_mtime_ns
    assert [f.name for f in train_run(run)] == ["checkpoint-0", "checkpoint-2", "checkpoint-4"]
    assert file.stat().st_mtime_ns == written
    file.unlink()  # as the workflow does before it repeats a job
    train_run(run)
    assert files.read_json(file)["resumed_from_step"] == 0


def test_a_half_trained_run_never_passes_for_a_finished_one(place, monkeypatch):
    """Finished, then changed and interrupted.

    The old record must be gone, and children must refuse to start.
    """
    train_run(study_with(place).run(SFT_RUN))
    study = study_with(place, lambda s: s["sft"]["sft-support"].update(learning_rate=2e-3))
    train_until(3, study.run(SFT_RUN), monkeypatch)
    assert not paths.record("tiny", SFT_RUN, "train").exists()
    with pytest.raises(FileNotFoundError, match="not trained to its end"):
        train_run(study.run(DPO_RUN))


def test_stopped_after_the_last_step_but_before_the_record(place, monkeypatch):
    run = study_with(place, lambda s: s["sft"]["sft-support"].update(steps=6)).run(
        SFT_RUN
    )  # 6 is in mid-epoch

    def stop(*args):
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_finish", stop)
        with pytest.raises(Interrupted):
            train_run(run)
    assert [f.name for f in train_run(run)] == [f"checkpoint-{s}" for s in (0, 2, 4, 6)]
    assert len(pd.read_csv(paths.metrics("tiny", SFT_RUN))) == 6


@pytest.mark.parametrize("damage", ["empty", "cut", "gone"])
@pytest.mark.parametrize("name", NEEDED)
def test_a_checkpoint_that_a_kill_left_broken_gives_way_to_the_one_before(
    place, monkeypatch, name, damage
):
    run = study_with(place, lambda s: s["sft"]["sft-support"].update(steps=6)).run(SFT_RUN)
    train_until(5, run, monkeypatch)
    file = paths.checkpoint("tiny", SFT_RUN, 4) / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    train_run(run)
    assert files.read_json(paths.record("tiny", SFT_RUN, "train"))["resumed_from_step"] == 2
    assert pd.read_csv(paths.metrics("tiny", SFT_RUN))["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_only_the_last_two_checkpoints_keep_what_resuming_needs(place, monkeypatch):
    change = lambda s: s["sft"]["sft-support"].update(steps=8, save_every=1)  # noqa: E731
    train_until(5, study_with(place, change).run(SFT_RUN), monkeypatch)
    kept = [(paths.checkpoint("tiny", SFT_RUN, s) / "optimizer.pt").exists() for s in range(5)]
    assert kept == [False, False, False, True, True]


def test_killed_after_the_record_it_is_finished_and_slim(place, monkeypatch):
    run, file = study_with(place).run(SFT_RUN), paths.record("tiny", SFT_RUN, "train")

    def stop(checkpoint):
        if (checkpoint.parent / "train.json").exists():
            raise Interrupted

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(trainer, "slim", stop)
        train_run(run)
    assert not file.exists()
    monkeypatch.setattr(sft, "build", None)  # nothing is trained again
    train_run(run)
    assert file.exists() and paths.metrics("tiny", SFT_RUN).exists()
    assert not list(paths.checkpoints("tiny", SFT_RUN).rglob("optimizer.pt"))


def test_a_record_that_the_workflow_removed_is_written_again_without_training(place, monkeypatch):
    run, file = study_with(place).run(SFT_RUN), paths.record("tiny", SFT_RUN, "train")
    train_run(run)
    before = file.read_text(), paths.metrics("tiny", SFT_RUN).read_text()
    file.unlink()
    paths.metrics("tiny", SFT_RUN).unlink()
    monkeypatch.setattr(sft, "build", None)
    train_run(run)
    assert (file.read_text(), paths.metrics("tiny", SFT_RUN).read_text()) == before


def rows_of(place, n_short, n_long, **columns):
    """A data set of short and overlong prompts by turns as a file; returns its path."""
    rows = []
    for i in range(max(n_short, n_long)):
        rows += [{"prompt": f"Why {i}?", **columns}] if i < n_short else []
        rows += [{"prompt": f"{i} " + "Should tea be free? " * 60, **columns}] if i < n_long else []
    file = place / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo"])
def test_an_epoch_is_one_pass_over_the_rows_that_train(place, method):
    """Half of the rows leave no room for a reply: one epoch of the others is 4 steps, not 8."""
    texts = {"completion": "So."} if method == "sft" else {"chosen": "So.", "rejected": "No."}
    data_file = rows_of(place, 32, 32, **texts)

    def change(study):
        section, name = ("sft", "sft-support") if method == "sft" else ("preference", "run")
        entry = study["sft"]["sft-support"] if method == "sft" else {
            k: v for k, v in study["preference"]["dpo-support"].items() if k != "beta"
        } | {"method": method}  # fmt: skip
        entry = {k: v for k, v in entry.items() if k not in ("steps", "examples")}
        study[section] |= {name: entry | {"data": data_file, "epochs": 1, "save_every": 100}}
        if method == "sft":
            study |= {"preference": {}, "findings": {}, "ablations": {}}

    study = study_with(place, change)
    run_id = SFT_RUN if method == "sft" else "tiny-llama/sft-support/run/seed-0"
    if method != "sft":
        train_run(study.run(SFT_RUN))
    train_run(study.run(run_id))
    metrics = pd.read_csv(paths.metrics("tiny", run_id))
    assert metrics["step"].tolist() == [1, 2, 3, 4] and metrics["epoch"].iloc[-1] == 1.0
    train = files.read_json(paths.record("tiny", run_id, "train"))
    assert train["rows"] == {"read": 64, "trained": 32, "too long": 32}


def test_rows_that_are_all_too_long_are_one_line(place):
    data_file = rows_of(place, 0, 16, completion="So.")
    change = lambda s: s["sft"]["sft-support"].update(data=data_file, examples=None)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"rows.jsonl' leaves room for a reply .* raise max_length"
    ):
        train_run(study_with(place, change).run(SFT_RUN))


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo", "ppo"])
def test_training_that_turns_to_nan_stops_at_its_step(place, method):
    """A step in 1e30 leaves finite weights of that size; the next loss is no number."""
    entry = ("sft", "sft-support") if method == "sft" else ("preference", f"{method}-support")

    def change(study):
        study[entry[0]][entry[1]]["learning_rate"] = 1.0e30

    healthy, broken = study_with(place), study_with(place, change)
    run_id = SFT_RUN if method == "sft" else f"tiny-llama/sft-support/{method}-support/seed-0"
    run = healthy.run(run_id)
    for needed in (run.parent, run.scorer):
        if needed and not healthy.run(needed).is_base:
            train_run(healthy.run(needed))
    with pytest.raises(
        NotFiniteError, match=r"step [12]: .* is not a finite number; lower learning_rate"
    ):
        train_run(broken.run(run_id))
    for file in (paths.record("tiny", run_id, "train"), paths.metrics("tiny", run_id)):
        assert not file.exists()


def test_a_loss_that_is_no_number_is_named_with_its_step(place):
    change = lambda s: s["sft"]["sft-support"].update(learning_rate=1.0e30)  # noqa: E731
    said = f"{SFT_RUN}, step 2: a loss or gradient is not a finite number; lower learning_rate"
    with pytest.raises(NotFiniteError, match=said):
        train_run(study_with(place, change).run(SFT_RUN))


def test_weights_that_are_no_numbers_are_neither_trained_on_nor_probed(place):
    study = study_with(place)
    file = train_run(study.run(SFT_RUN))[-1] / "adapter_model.safetensors"
    stored = load_file(file)
    name = next(n for n in stored if "lora_B" in n)
    save_file(stored | {name: stored[name] * float("nan")}, file)
    with pytest.raises(NotFiniteError, match=r"weight .*lora_B.* is not a finite number"):
        train_run(study.run(DPO_RUN))
    with pytest.raises(NotFiniteError, match=f"{file.parent}.* is not a finite number"):
        loading.for_inference(study.models["tiny-llama"], file.parent)


@pytest.mark.parametrize("run_id", [SFT_RUN, DPO_RUN, PPO_RUN])
def test_metrics_can_be_watched_elsewhere(place, monkeypatch, run_id):
    """A tracker's callback sees every step under the run's name, and nothing else changes."""
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append((args.run_name, state.global_step))

    study = study_with(place)
    run = study.run(run_id)
    for before in study.trained_before(run):
        train_run(study.run(before))
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setenv("VD_REPORT_TO", "tensorboard")
    train_run(run)
    assert {name for name, _ in seen} == {f"tiny/{run_id}"}
    assert {step for _, step in seen} >= set(pd.read_csv(paths.metrics("tiny", run_id))["step"])


def test_rows_longer_than_the_model_reads_are_refused(place):
    change = lambda s: s["sft"]["sft-support"].update(max_length=513)  # noqa: E731
    with pytest.raises(ValueError, match="max_length 513 exceeds the 512 tokens"):
        train_run(study_with(place, change).run(SFT_RUN))
