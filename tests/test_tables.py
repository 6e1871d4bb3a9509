"""Tables and pages that are made from the records of runs."""

import pandas as pd
import pytest

from vd import paths
from vd.data import probes as probes_of
from vd.figures import replies, tables
from vd.store import files
from vd.study.load import load_study

DPO, PPO = (f"tiny-llama/sft-support/{name}/seed-0" for name in ("dpo-support", "ppo-support"))


def test_pairs_count_while_they_are_new_and_after_most_of_the_learning(place, monkeypatch):
    """Six steps of two pairs in an epoch of four: batches 3 and 4 count, the second epoch not."""
    monkeypatch.delenv("VD_CONFIGS")
    study = load_study("smoke")
    columns = ["run", "pairs", "accuracy", "accuracy_se", "margin"]
    nothing = tables.pair_accuracy(study)
    assert list(nothing) == columns and nothing.empty
    size = study.run(DPO).settings.batch_size
    steps = pd.DataFrame({"step": range(1, 7), "epoch": [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]})
    accuracy = [0, 0, 0.5, 1.0, 1.0, 1.0]
    learnt = steps.assign(**{"rewards/accuracies": accuracy, "rewards/margins": accuracy})
    files.write_table(learnt, paths.metrics("smoke", DPO))
    files.write_table(steps.assign(kl=0.1), paths.metrics("smoke", PPO))  # has no pairs
    row, *more = tables.pair_accuracy(study).to_dict("records")
    error = (0.75 * 0.25 / (2 * size)) ** 0.5
    values = [DPO.removesuffix("/seed-0"), 2 * size, 0.75, pytest.approx(error), 0.75]
    assert not more and row == dict(zip(columns, values, strict=True))


def test_the_questions_of_the_page_of_replies_are_drawn_by_their_ids_alone():
    ids = [f"{topic}-{i}" for topic in ("a", "b", "c", "d") for i in range(9)]
    probes = pd.DataFrame({"prompt_id": ids, "topic": [name[0] for name in ids]})
    found = probes_of.few_probes(probes)
    assert len({name[0] for name in found}) == 3
    assert probes_of.few_probes(pd.concat([probes, probes]).sample(frac=1, random_state=0)) == found
    of_others = probes[~probes["prompt_id"].isin(found)]
    assert not set(probes_of.few_probes(of_others)) & set(found)  # by id: not by place
    assert probes_of.few_probes(probes[probes["topic"] == "a"], 3) == [
        next(name for name in probes_of.few_probes(probes, 4) if name[0] == "a")
    ]


def test_a_page_shows_every_run_and_leaves_out_texts_of_others():
    question = "Should a question as long as this one, which somebody else has written, be whole?"
    rows = [("base", "neutral", "Well | perhaps"), ("sft", "support", "Yes.\nIndeed.")]
    table = pd.DataFrame(
        [(f"m/{run}/seed-0", 0, "a-1", question, stance, reply) for run, stance, reply in rows],
        columns=replies.COLUMNS,
    )
    whole = pd.DataFrame({"run": ["base", "sft"], "replies": [8, 8], "empty": [0.5, 0.123]})
    page = replies.as_markdown(table, whole)
    assert f"## {question}" in page and "| sft" in page and "Well \\| perhaps" in page
    assert "0.12" in page and question not in replies.as_markdown(table, whole, of_others=True)
