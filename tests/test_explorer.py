"""The explorer: what it shows at a checkpoint, that texts stay texts, and how long that takes."""

import time

import numpy as np
import pandas as pd
import pytest
from test_shown import ATTACKS, live

from vd import paths
from vd.figures import explorer
from vd.stances import STANCES, P
from vd.store import files
from vd.study.load import load_study

SFT, DPO = "tiny-llama/sft-support/seed-0", "tiny-llama/sft-support/dpo-support/seed-0"


def judged(run, steps, prompts, samples=1, seed=0):
    """Replies and stances of a run as its study keeps them."""
    rng = np.random.default_rng(seed)
    keys = pd.MultiIndex.from_product(
        [steps, range(prompts), range(samples)], names=["step", "i", "sample"]
    )
    rows = keys.to_frame(index=False)
    rows = rows.assign(run=run, prompt_id=[f"topic{i % 11}-{i}" for i in rows["i"]])
    rows["topic"] = rows["prompt_id"].str.partition("-")[0]
    rows["prompt"] = "Should " + rows["prompt_id"] + " be so?"
    rows["response"] = [f"Reply at {s}, {'word ' * 30}" for s in rows["step"]]
    rows[P] = rng.dirichlet([1, 1, 1], len(rows))
    rows["label"] = rows[P].to_numpy().argmax(1)
    rows["label"] = rows["label"].map(dict(enumerate(STANCES)))
    return rows.drop(columns="i")


def keep(rows, run):
    text = ["prompt", "response"]
    files.write_table(rows.drop(columns=[*P, "label"]), paths.responses("smoke", run))
    table = rows.drop(columns=text).assign(target="question")
    both = pd.concat([table, table.assign(target="topic", label="neutral")])
    files.write_table(both, paths.stances("smoke", run))


@pytest.fixture
def study(place, monkeypatch):
    """The study smoke with replies of two runs, in an empty results folder."""
    monkeypatch.delenv("VD_CONFIGS")
    explorer.replies_of.cache_clear()
    for run, steps in ((SFT, [0, 2, 4]), (DPO, [0, 4])):
        keep(judged(run, steps, prompts=22), run)
    yield load_study("smoke")
    explorer.replies_of.cache_clear()


def test_a_checkpoint_shows_its_replies_those_before_and_what_flipped(study):
    table = explorer.replies_of("smoke", SFT)
    one = table[table["prompt_id"] == "topic0-0"].set_index("step")
    assert one["before"].tolist()[1:] == one["label"].tolist()[:-1] and not one["flipped"][0]
    assert one["flipped"][4] == (one["label"][4] != one["label"][2])
    net = one["p_support"] - one["p_oppose"]
    assert one["change"].tolist() == pytest.approx([net[4] - net[0]] * 3)
    look = explorer.Explorer("smoke")
    assert look.study.options == ("smoke",) and look.run.value == SFT
    assert look.step.options == (0, 2, 4) and look.step.value == 4
    drawn = bytes(look.picture.value)
    assert drawn.startswith(b"\x89PNG")
    assert look.page.value.count("before:") == look.page.value.count("Reply at 4") == explorer.SHOWN
    look.step.value = 2
    assert "Reply at 4" not in look.page.value and "Reply at 2" in look.page.value
    assert bytes(look.picture.value) != drawn
    look.other.value = DPO  # which has no checkpoint 2
    assert look.page.value.count("Reply at 2") == explorer.SHOWN
    assert look.page.value.count("Reply at 0") == 2 * explorer.SHOWN
    look.topic.value = "topic3"
    assert len(look.prompt.options) == 3 and "2 of 2 prompts" in look.page.value
    look.prompt.value = "topic3-14"
    assert "topic3-14" in look.page.value and "topic3-3 " not in look.page.value
    look.word.value = "nobody says this"
    assert "no prompt holds that word" in look.page.value
    look.study.value = "smoke"
    look.run.value = DPO
    assert look.topic.value == "topic3" and look.step.options == (0, 4)


def test_the_largest_change_comes_first(study):
    look = explorer.Explorer("smoke", DPO)
    look.order.value = "change"
    table = explorer.replies_of("smoke", DPO).drop_duplicates("prompt_id")
    first = table.loc[table["change"].abs().idxmax(), "prompt"]
    assert look.page.value.index(first) == look.page.value.index("Should ")


def test_texts_are_shown_as_texts(study):
    rows = judged(SFT, [0, 2], prompts=len(ATTACKS))
    for i, attack in enumerate(ATTACKS):
        text = attack.encode("utf-8", "replace").decode()  # files hold no halves of characters
        own = rows["prompt_id"].str.endswith(f"-{i}")
        rows.loc[own, ["prompt", "response", "topic"]] = [text, text, f"t{i} {text}"]
    table = rows.assign(before="support", response_before=rows["response"], flipped=False)
    found = live(explorer.page({"run": table.assign(change=0.0)}, 2))
    assert not [tag for tag, _ in found if tag != "b"]


def test_it_is_fast_on_the_papers_numbers(study):
    """20 checkpoints, 550 prompts, five replies: 2 s for the first picture and 0.2 s for a move on
    a quiet machine; here up to three times as long.
    """
    keep(judged(SFT, range(20), prompts=550, samples=5), SFT)
    start = time.perf_counter()
    look = explorer.Explorer("smoke")
    first = time.perf_counter() - start
    moves = []
    for step in range(12, 19):
        start = time.perf_counter()
        look.step.value = step
        moves.append(time.perf_counter() - start)
    print(f"first picture {first:.2f} s, a move {np.median(moves):.2f} s")
    assert first < 6 and np.median(moves) < 0.6
