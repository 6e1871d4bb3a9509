"""Notebooks on files as people bring them: no set is lost, and where nothing is, they say so."""

import json

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import yaml
from api_server import ApiServer

from vd import paths
from vd.data import sets
from vd.data.probes import load_probes
from vd.drift import measures
from vd.judging import sheets
from vd.stances import STANCES, P
from vd.store import files
from vd.study.load import load_study
from vd.study.settings import Bootstrap

RUN = "tiny-llama/sft-support/seed-0"
ATTACK = "<img src=x onerror=alert(1)> ` [x](javascript:alert(2)) \x1b[31m"


@pytest.fixture
def mine(place):
    """The study smoke on files of ours, as `mine`, with one run's replies; returns their names."""

    def write(name, rows):
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(place / name)

    pairs = sets.corpus("value_gap").head(60)[["prompt", "chosen", "rejected"]].to_dict("records")
    added = "Write a function that adds {} to a list of numbers in Python."
    replies = {"chosen": "Add it.", "rejected": "No."}
    coding = [{"prompt": added.format(number), **replies} for number in range(40)]
    names = {
        "documented": write("documented.jsonl", pairs),
        "numbered": write("numbered.jsonl", [{"id": n} | pair for n, pair in enumerate(pairs)]),
        "coding": write("coding.jsonl", coding),
    }
    study = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    one = study["preference"]["dpo-support"]
    study["preference"] = {name: one | {"data": file} for name, file in names.items()}
    study |= {"ablations": {}, "findings": {}, "evaluations": {}}
    (place / "configs" / "mine.yaml").write_text(yaml.safe_dump(study))
    asked = load_probes(load_study("mine").probing)
    rows = [
        {"run": RUN, "step": step, "prompt_id": p.prompt_id, "topic": p.topic, "sample": sample}
        | {"prompt": p.prompt, "response": f"{ATTACK} {sample} {step} {p.prompt_id}"}
        for step in (0, 4)
        for p in asked.itertuples()
        for sample in range(2)
    ]
    files.write_table(pd.DataFrame(rows), paths.responses("mine", RUN))
    probed = {"wall_seconds": {"probe": 1.0}, "tokens_generated": 1, "model_revision": None}
    files.write_json(probed, paths.record("mine", RUN, "probe"))
    return names


def execute(place, name, **parameters):
    """Run a notebook on `mine`; returns what it printed."""
    file = place / "executed.ipynb"
    parameters = {"STUDY": "mine"} | parameters
    papermill.execute_notebook(paths.notebook(name), file, parameters, kernel_name="python3")
    outputs = [o for cell in nbformat.read(file, 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    return "".join(o["text"] for o in outputs if o.output_type == "stream")


def test_every_pair_set_is_in_every_table_and_figure(place, mine):
    execute(place, "00_stance_profile")
    tables = {
        name: pd.read_csv(paths.table("mine", f"{name}.csv")).set_index("dataset")
        for name in ("value_gap", "stance_profile", "stance_mix", "topic_share")
    }
    for name in mine.values():
        gap = tables["value_gap"].loc[[name]].query("topic == 'all'")
        assert gap["stance"].tolist() == list(STANCES)
        sides = tables["stance_profile"].loc[[name]]
        assert sides.groupby("side").size().to_dict() == {"chosen": 3, "rejected": 3}
        n = tables["topic_share"].loc[name, "touching"]
        assert gap["n_pairs"].eq(n).all() and sides["n_replies"].eq(n).all()
        assert (n == 0) == (name == mine["coding"]) == bool(gap["gap"].isna().all())
    assert tables["topic_share"].loc[mine["documented"], "touching"] > 50
    assert {"sft_neutral", "sft_support"} == set(tables["stance_mix"].index)
    stances = pd.concat(map(moved, (0, 2, 4)))
    made = {
        "drift": measures.drift_table(stances, Bootstrap(resamples=20)),
        "drift_seeds": measures.drift_table(stances, Bootstrap(resamples=20), pool=True),
        "trajectories_seeds": measures.trajectory_table(
            stances, Bootstrap(resamples=20), pool=True
        ),
    }
    for name, table in made.items():
        files.write_table(table, paths.table("mine", f"{name}.csv"))
    execute(place, "06_figures")
    drawn = pd.read_csv(f"{paths.figure('mine', 'value_gap')}.csv")
    # the scorer's set is one of the study's too
    assert set(drawn["dataset"]) == {*mine.values(), "value_gap"}


def moved(step):
    """Stances of one run at a step."""
    rng = np.random.default_rng(step)
    rows = pd.DataFrame({"prompt_id": list("abcd"), "topic": list("xxyy")})
    rows[P] = rng.dirichlet([1, 1, 1], 4)
    return rows.assign(run=RUN, step=step, sample=0)


def test_a_sheet_that_nobody_has_filled_in_stops_nothing(place, mine):
    replies = pd.read_parquet(paths.responses("mine", RUN))
    assert sheets.write_sheet(replies, 20, paths.label_sheet("mine")) == 20
    printed = execute(place, "04_judge", RUN=RUN)
    assert paths.record("mine", RUN, "run").exists()
    assert r"\x1b[31m" in printed and "\x1b[31m" not in printed
    assert "no labels yet" in execute(place, "04_trust")
    sheet = pd.read_csv(paths.label_sheet("mine"), keep_default_na=False)
    sheet.loc[:4, "label"] = "Support"
    sheet.to_csv(paths.label_sheet("mine"), index=False)
    assert "no labels yet" not in execute(place, "04_trust")
    assert "your labels" in (place / "executed.ipynb").read_text().split("no label sheet yet")[1]


def test_an_api_judge_without_a_usable_label_is_said_to_be_that(place, mine, monkeypatch):
    monkeypatch.setenv("VD_CACHE", str(place / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    server = ApiServer().start()
    server.logprobs, server.fault = False, lambda number, request: ("say", "perhaps")
    file = place / "configs" / "mine.yaml"
    study = yaml.safe_load(file.read_text())
    study["judge"]["api"] = {"model": "tiny", "base_url": server.url, "votes": 1}
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(papermill.PapermillExecutionError, match=r"judged none of [\d,]+ replies"):
        execute(place, "04_judge", RUN=RUN)
    server.stop()
