"""A study that extends another one is that study with some entries replaced, removed or added."""

import re

import pytest
import yaml
from test_study import SMOKE

from vd.study.file import StudyError
from vd.study.load import load_study

OWN = "sft-support/mine"
DPO = SMOKE["preference"]["dpo-support"]


@pytest.fixture
def study(place):
    """Writes a study beside smoke, loads it, and returns it or the error."""
    (place / "configs" / "smoke.yaml").write_text(yaml.safe_dump(SMOKE, sort_keys=False))

    def study(name="own", extends="smoke", **content):
        content = {"extends": extends} | content
        (place / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        try:
            return load_study(name)
        except StudyError as error:
            return str(error).replace(f"{place / 'configs'}/", "")

    return study


def test_a_study_that_adds_nothing_is_the_other_one_by_another_name(study):
    assert study().model_copy(update={"name": "smoke"}) == load_study("smoke")


def test_entries_are_replaced_whole_and_new_ones_come_last(study):
    mine = {"mine": DPO | {"beta": 0.5}}
    shorter = {key: value for key, value in DPO.items() if key != "examples"}
    own = study(preference={"dpo-support": shorter} | mine)
    assert list(own.preference) == [*SMOKE["preference"], "mine"]
    assert own.preference["dpo-support"] == shorter and "examples" in DPO
    assert own.sft == SMOKE["sft"] and f"tiny-llama/{OWN}/seed-0" in own.runs()


def test_single_keys_of_probing_judge_bootstrap_and_vprism_are_replaced(study):
    smoke = load_study("smoke")
    own = study(
        probing={"per_topic": 4},
        judge={"epochs": 1, "examples": None},
        bootstrap={"alpha": 0.1},
        vprism={"seed": 1},
    )
    assert own.probing == smoke.probing.model_copy(update={"per_topic": 4})
    assert own.judge == smoke.judge.model_copy(update={"epochs": 1, "examples": None})
    assert own.bootstrap == smoke.bootstrap.model_copy(update={"alpha": 0.1})
    assert own.vprism == smoke.vprism.model_copy(update={"seed": 1})


def test_what_is_no_map_is_replaced(study):
    assert study(seeds=[3, 4]).seeds == [3, 4]


def test_null_removes_entries_and_sections(study):
    less = {"ppo-support": None, "ppo-kl-0.5": None, "simpo-support": None}
    roles = {"value-drifts": {"sft_support": "sft-support"}}
    own = study(preference=less, ablations=None, findings=roles)
    assert list(own.preference) == ["dpo-support", "dpo-pairs"] and own.ablations == {}
    assert own.findings == roles  # a paper's roles are one entry
    assert study(findings=None).findings == {}
    assert "own.yaml: seeds: missing" in study(seeds=None)


def test_a_null_that_removes_nothing_is_an_error(study):
    said = study(preference={"dpo-suport": None})
    assert said == "own.yaml: preference.dpo-suport: empty; write a value, or remove the key"


def test_extensions_may_be_extended(study):
    study("one", seeds=[1], bootstrap={"alpha": 0.1})
    own = study("two", extends="one", seeds=[2], bootstrap={"resamples": 300})
    assert (own.seeds, own.bootstrap.alpha, own.bootstrap.resamples) == ([2], 0.1, 300)


def test_circles_are_errors(study):
    assert "own.yaml: extends: studies in a circle, own -> own; remove one" in study(extends="own")
    study("one", extends="two")
    said = study("two", extends="one")
    assert said == "one.yaml: extends: studies in a circle, two -> one -> two; remove one"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "nothing.yaml: no such study; there are own, smoke"),
        ("smoke.yaml", ".*a study is named without folder and ending; write smoke"),
        ("a/b", ".*not a study name; use"),
        (None, "None is no name of a study; write one, such as pocket"),
        (["smoke"], r"\['smoke'\] is no name of a study; write one, such as pocket"),
    ],
)
def test_what_is_extended_has_to_be_there(study, name, said):
    assert re.match(f"own.yaml: extends: {said}", study(extends=name))


def test_mistakes_name_the_file_that_holds_the_entry(study, place):
    study(probing={"smaples": 1}, bootstrap={"alpha": 2.0})
    said = study("two", extends="own", bootstrap={"alpha": 3.0}).split("\n")
    assert "two.yaml: probing.smaples (in own.yaml): unknown key; remove it or" in said[0]
    assert said[1].startswith("two.yaml: bootstrap.alpha: ")
    # smoke is right by itself: its roles name a run that is removed here
    said = study(preference={"simpo-support": None})
    assert "own.yaml: findings.value-drifts.simpo (in smoke.yaml): no run" in said
    (place / "configs" / "smoke.yaml").write_text("seeds: [0\n")
    assert study().startswith("smoke.yaml: line 2: not valid YAML")
