"""Capability by lm-evaluation-harness; skipped where that option is not installed."""

import sys

import pandas as pd
import pytest
import yaml

from vd import paths
from vd.evaluations.metrics import lm_eval
from vd.evaluations.run import evaluate_run
from vd.probing.probe import probe_run
from vd.probing.responders import load_responder
from vd.study.load import load_study

BASE = "tiny-llama/base/seed-0"


@pytest.fixture
def study(place):
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    content["probing"] |= {"per_topic": 1, "samples": 1}
    content["evaluations"] = {"lm_eval": {"limit": 12}}
    (place / "configs" / "able.yaml").write_text(yaml.safe_dump(content))
    return load_study("able")


def test_our_task_is_answered_without_a_network(study, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = study.run(BASE)
    probe_run(study, run)
    table = evaluate_run(study, run).set_index("metric")
    assert set(table.index) == {"everyday acc", "everyday acc_norm"}
    assert (table["n"] == 12).all() and table["value"].between(0, 1).all()
    assert (table["lo"] < table["value"]).all() and (table["value"] < table["hi"]).all()


def test_a_model_that_knows_chooses_right(study, monkeypatch):
    """The likelier end of a sentence counts: one that scores `right` higher is always right."""
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    rows = pd.read_json(lm_eval.OURS / "everyday.jsonl", lines=True)
    right = set(rows["right"])

    def known(self, requests, **_):
        return [(float(request.args[1].strip() in right), False) for request in requests]

    monkeypatch.setattr(HFLM, "loglikelihood", known)
    responder = load_responder(study.run(BASE).model_settings, None)
    found = lm_eval.evaluate(responder, None, lm_eval.Settings(), study, study.run(BASE))
    assert found.set_index("metric").loc["everyday acc", ["value", "n"]].tolist() == [1.0, 48]


def test_an_unknown_task_and_a_missing_harness_are_one_line_with_the_fix(study, monkeypatch):
    responder = load_responder(study.run(BASE).model_settings, None)
    asked = lm_eval.Settings(tasks=["no_such_task"])
    if "lm_eval" in sys.modules or pytest.importorskip("lm_eval"):
        with pytest.raises(ValueError, match=r"\['no_such_task'\] are not known; write tasks"):
            lm_eval.evaluate(responder, None, asked, study, study.run(BASE))
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(
        ValueError, match=r"pip install -e \"\.\[capability\]\" -c environment.lock"
    ):
        lm_eval.evaluate(responder, None, asked, study, study.run(BASE))


def test_the_choices_are_ours_and_differ():
    rows = pd.read_json(lm_eval.OURS / "everyday.jsonl", lines=True)
    assert len(rows) == 48 and rows["goal"].is_unique
    assert (rows["right"] != rows["wrong"]).all() and not rows.isna().any().any()
