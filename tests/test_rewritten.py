"""A model whose answers another run rewrites: one more run of the graph."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from small import smoke_with

from vd import paths, values
from vd.judging.api import ApiJudge
from vd.methods import rewritten
from vd.probing.responders import load_responder
from vd.store.files import read_json
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.study.servers import TranslatorApi
from vd.study.settings import Probing
from vd.training.train import train_run
from vd.values import NAMES

REWRITER, RUN = "tiny-llama/rewriter/seed-0", "tiny-llama/asked/seed-0"
SHIFT = np.array([1.0 if name == "benevolence" else 0.0 for name in NAMES])


def study_of(place, **keys):
    content = smoke_with("unused", "dpo")
    plain = content["sft"]["sft-support"] | {"data": "value_rewrites", "examples": 16}
    plain |= {"lora": None, "learning_rate": 1e-2}  # far enough to write something else
    asked = {"method": "rewritten", "rewriter": "rewriter"} | keys
    content |= {"sft": {"rewriter": plain, "asked": asked}, "scorers": {}, "preference": {}}
    (place / "configs" / "rewritten.yaml").write_text(yaml.safe_dump(content))
    return load_study("rewritten")


def test_answers_are_rewritten_as_the_instruction_asks(place, monkeypatch):
    monkeypatch.setattr(rewritten, "translated", lambda words, *_: SHIFT * (words == "be kind"))
    study = study_of(place, instruction="be kind")
    run = study.run(RUN)
    assert study.trained_before(run) == [REWRITER] and run.parent is None
    for one in (REWRITER, RUN):
        train_run(study.run(one))
    about = json.loads((paths.checkpoint("rewritten", RUN, 1) / "responder.json").read_text())
    assert about["template"] == values.message("{reply}", SHIFT)
    assert "much more benevolence" in about["template"]
    details = read_json(paths.record("rewritten", RUN, "train"))["details"]
    assert details["shift"]["benevolence"] == 1 and details["told"] == "much more benevolence"
    asked = pd.DataFrame({"prompt_id": ["a"], "topic": ["t"], "prompt": ["Is it so?"]})
    how = Probing(samples=1, max_new_tokens=6, temperature=0)
    replies = {
        step: load_responder(run.model_settings, paths.checkpoint("rewritten", RUN, step)).respond(
            asked, how, 0
        )["response"][0]
        for step in (0, 1)
    }
    base = load_responder(run.model_settings, None).respond(asked, how, 0)["response"][0]
    end = load_responder(run.model_settings, paths.last_checkpoint("rewritten", REWRITER))
    told = asked.assign(prompt=values.message(base, SHIFT))
    assert replies[0] == base
    assert replies[1] == end.respond(told, how, 0)["response"][0] != base


def test_without_an_instruction_the_same_values_are_asked_for():
    assert (rewritten.translated(None) == 0).all()


def test_a_server_may_translate(place, monkeypatch):
    """It is asked of each value, and what it will not read is one line."""
    settings = TranslatorApi(model="m")
    assert settings.prompt == "translator-v1"

    def judged(api, asked, progress=None):
        kind = asked["prompt"].str.startswith("benevolence")
        none = dict.fromkeys(("p_less", "p_drop"), 0.0)
        table = pd.DataFrame({"p_gain": kind * 0.6, "p_more": kind * 0.4}, asked.index)
        status = np.where(asked["response"] == "??", "unclear", "ok")
        return table.assign(p_same=1.0 - kind, status=status, **none)

    monkeypatch.setattr(ApiJudge, "judge", judged)
    assert rewritten.translated("be kind", settings).tolist() == (0.8 * SHIFT).tolist()
    with pytest.raises(
        ValueError, match=r"the order '\?\?' is unclear for self-direction; word it"
    ):
        rewritten.translated("??", settings)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rewriter": "writer"}, "sft.asked.rewriter: no run 'writer'; there are"),
        ({"instruction": " "}, "sft.asked.instruction"),
    ],
)
def test_a_wrong_rewriter_or_instruction_is_one_line(place, keys, said):
    with pytest.raises(StudyError) as error:
        study_of(place, **keys)
    assert said in str(error.value)
