"""DPO that bears a shift or wrong labels: losses and gradients against their equations."""

import numpy as np
import pytest
import torch
import yaml
from scipy.optimize import minimize
from small import smoke_with

from vd import paths, plugins
from vd.methods import kldpo
from vd.study.load import load_study
from vd.training.train import train_run

SFT = "tiny-llama/sft-support/seed-0"
KEYS = {
    "kldpo": {"tau": 0.3},
    "kldpo, coded": {"tau": 0.3, "form": "coded"},
    "drdpo": {"beta_prime": 0.4},
    "wdpo": {"rho": 0.5},
}


def study_of(place, name, **keys):
    method = name.partition(",")[0]
    content = smoke_with("robust", method, beta=2.0, save_every=2, steps=2, **KEYS[name] | keys)
    for left_out in ("scorer", "response_length"):
        content["preference"]["robust"].pop(left_out, None)
    content["preference"]["robust"]["batch_size"] = 8
    if "lora" in keys:  # a run trains on its parent's adapters, or on all weights as it did
        for run in (*content["sft"].values(), *content["scorers"].values()):
            run |= {} if run.get("method") == "given" else {"lora": keys["lora"]}
    (place / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    return load_study("tiny")


@pytest.fixture
def built(place):
    """Makes a method's trainer with a policy that has gone from its reference."""

    def make(name, change=lambda trainer: None, **keys):
        study = study_of(place, name, **keys)
        train_run(study.run(SFT))
        run = study.run("tiny-llama/sft-support/robust/seed-0")
        trainer = plugins.load("methods", run.method).build(run)
        for weight_name, weight in trainer.model.named_parameters():
            if ".default." in weight_name and "lora_B" in weight_name:
                noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
                weight.data += 0.1 * noise.to(weight.device)
        return trainer

    return make


def batch_of(trainer, first, n):
    rows = [trainer.train_dataset[i] for i in range(first, first + n)]
    return trainer._prepare_inputs(dict(trainer.data_collator(rows)))


def plain_losses(trainer, batch):
    """-log sigmoid(beta h) of each pair, of whole logits, with the graph to the policy."""

    def logp(adapter):
        trainer.model.set_adapter(adapter)
        logits = trainer.model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
        scores = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return (scores * batch["completion_mask"][:, 1:]).sum(1).chunk(2)

    with torch.no_grad():
        chosen_before, rejected_before = logp("ref")
    chosen, rejected = logp("default")
    margin = chosen - chosen_before - rejected + rejected_before
    return -torch.nn.functional.logsigmoid(2.0 * margin)


def objective(name, losses):
    """A method's loss as its paper or its authors' program has it, and its graph."""
    if name == "drdpo":
        return -0.4 * (-losses / 0.4).exp().mean().log()
    fixed = losses.detach()
    if name == "kldpo":
        return ((fixed / 0.3).softmax(0) * losses).sum()
    return (((fixed - fixed.mean()) / 0.3).exp().clamp(max=10.0) * losses).mean()


def gradients(trainer):
    found = {n: w.grad.clone() for n, w in trainer.model.named_parameters() if w.grad is not None}
    trainer.model.zero_grad()
    return found


def distance(ours, theirs):
    """How far two gradients are apart, relative to the second."""
    assert ours.keys() == theirs.keys() != set()
    apart = sum((ours[n] - theirs[n]).square().sum() for n in ours)
    return float((apart / sum(g.square().sum() for g in theirs.values())).sqrt())


@pytest.mark.parametrize("name", ["kldpo", "kldpo, coded", "drdpo"])
def test_weighted_losses_equal_their_equations(built, name):
    trainer = built(name)
    batch = batch_of(trainer, 0, 8)
    losses = plain_losses(trainer, batch)
    # of alike losses every method would be DPO
    assert losses.std() > 0.1
    expected = objective(name, losses)
    expected.backward()
    theirs = gradients(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert distance(gradients(trainer), theirs) < 1e-3
    if name != "drdpo":  # whose printed loss is the weighted mean
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    weights = trainer.weigh(losses.detach(), losses.detach())
    assert loss.item() == pytest.approx((weights * losses).mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", ["kldpo", "kldpo, coded", "drdpo"])
def test_weights_know_all_pairs_of_a_step(built, name):
    """Two pairs at a time give the gradient of eight at once."""

    def step(trainer, size):
        batches = [batch_of(trainer, first, size) for first in range(0, 8, size)]
        batches, _ = trainer.get_batch_samples(iter(batches), len(batches), trainer.args.device)
        for batch in batches:
            (trainer.compute_loss(trainer.model, batch) / len(batches)).backward()
        return gradients(trainer)

    trainer = built(name)
    whole = step(trainer, 8)
    assert distance(step(trainer, 2), whole) < 1e-3
    # an epoch's last step may end in a smaller part
    sizes, first, parts = [3, 3, 2], 0, []
    for size in sizes:
        parts.append(batch_of(trainer, first, size))
        first += size
    parts, _ = trainer.get_batch_samples(iter(parts), 3, trainer.args.device)
    for batch in parts:
        (trainer.compute_loss(trainer.model, batch) / 3).backward()
    assert distance(gradients(trainer), whole) < 1e-3
    # each part weighed by itself is another method
    parts = [batch_of(trainer, first, 2) for first in range(0, 8, 2)]
    trainer.step_losses, trainer.passes = None, 1
    for batch in parts:
        (trainer.compute_loss(trainer.model, batch) / 4).backward()
    assert distance(gradients(trainer), whole) > 0.05


def test_the_penalty_has_the_gradient_of_exact_double_backward(built):
    trainer = built("wdpo")
    batch = batch_of(trainer, 0, 4)

    def exact():
        with trainer.at_replies(batch) as end:
            end = end | trainer.reference(end)
            embed = trainer.model.get_input_embeddings()
            read = embed(batch["input_ids"]).detach().requires_grad_()
            _, losses = trainer.losses(trainer.model, end, inputs_embeds=read)
            (slope,) = torch.autograd.grad(losses.sum(), read, create_graph=True)
            square = slope.square().sum((1, 2)).view(2, -1).sum(0)
            return losses.mean(), square.mean()

    loss, square = exact()
    square.backward()
    penalty = gradients(trainer)
    whole = trainer.compute_loss(trainer.model, batch)
    whole.backward()
    ours = gradients(trainer)
    assert whole.item() == pytest.approx((loss + 0.5 * square).item(), rel=1e-4)
    trainer.rho = 0.0
    trainer.compute_loss(trainer.model, batch).backward()
    plain = gradients(trainer)
    difference = {n: (ours[n] - plain[n]) / 0.5 for n in ours}
    assert distance(difference, penalty) < 0.01
    logged = trainer._metrics["train"]["input_gradient"]
    assert logged[0] == pytest.approx(square.item(), rel=1e-3)


def test_embeddings_that_are_trained_learn_from_the_penalty(built):
    """As exact double backward has it, with whole weights."""
    trainer = built("wdpo", lora=None)
    for weight in trainer.model.parameters():  # off the reference
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        weight.data += 0.02 * noise.to(weight.device)
    batch, embed = batch_of(trainer, 0, 2), trainer.model.get_input_embeddings()
    with trainer.at_replies(batch) as end:
        end = end | trainer.reference(end)
        read = embed(batch["input_ids"])
        _, losses = trainer.losses(trainer.model, end, inputs_embeds=read)
        (slope,) = torch.autograd.grad(losses.sum(), read, create_graph=True)
        slope.square().sum().div(2).backward()
    theirs = gradients(trainer)
    found = []
    for rho in (0.0, 0.5):
        trainer.rho = rho
        trainer.compute_loss(trainer.model, batch).backward()
        found.append(gradients(trainer))
    difference = {n: (found[1][n] - found[0][n]) / 0.5 for n in theirs}
    assert distance(difference, theirs) < 0.01
    name = next(n for n, w in trainer.model.named_parameters() if w is embed.weight)
    assert theirs[name].abs().sum() > 0


@pytest.mark.parametrize("tau", [0.05, 0.3, 2.0])
def test_derived_weights_are_the_worst_distribution(tau):
    """Against scipy: the maximum of sum p_i l_i - tau KL(p || uniform) over distributions."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        losses = rng.gamma(2.0, 0.3, 6)

        def negative(logits, losses=losses):
            p = np.exp(logits - logits.max())
            p /= p.sum()
            return -(p @ losses - tau * (p * np.log(np.maximum(p, 1e-300) * len(p))).sum())

        found = minimize(negative, np.zeros(6), method="BFGS", options={"gtol": 1e-9})
        worst = np.exp(found.x - found.x.max())
        one = torch.tensor(losses)
        ours = kldpo.softmax_weights(one, one, tau).numpy() / 6
        assert ours.sum() == pytest.approx(1)
        assert ours == pytest.approx(worst / worst.sum(), abs=2e-3)


def test_at_a_small_tau_the_authors_weights_are_others():
    """The numbers that a note on the authors' program works out by hand."""
    losses = torch.tensor([0.2, 0.7, 1.5, 0.69])
    coded, derived = (
        f(losses, losses, 0.05) for f in (kldpo.capped_weights, kldpo.softmax_weights)
    )
    assert (coded * losses).mean().item() == pytest.approx(3.82, abs=0.01)
    assert (derived * losses).mean().item() == pytest.approx(1.50, abs=0.01)
    assert coded.max() == kldpo.CAP


@pytest.mark.parametrize("name", KEYS)
def test_runs_train_and_say_so(place, name):
    study = study_of(place, name, device_batch_size=4)
    train_run(study.run(SFT))
    run = study.run("tiny-llama/sft-support/robust/seed-0")
    folders = train_run(run)
    assert [folder.name for folder in folders] == ["checkpoint-0", "checkpoint-2"]
    metrics = paths.metrics(run.study, run.id).read_text().partition("\n")[0].split(",")
    assert {"loss", "rewards/margins", "rewards/accuracies", "tokens_seen"} <= set(metrics)
    assert ("input_gradient" in metrics) == (name == "wdpo")


def test_a_long_tail_of_large_losses_gives_finite_weights():
    losses = torch.tensor([0.0, 1e-4, 400.0])
    for tau in (1e-3, -1e-3):
        assert kldpo.softmax_weights(losses, losses, tau).isfinite().all()
