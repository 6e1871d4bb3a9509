"""A study is checked before any work starts.

Each mistake is one error that names file, key and fix.
"""

import re

import pytest
import yaml

from vd import paths
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.study.steps import total_steps

SMOKE = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())


def write(place, change):
    """The study smoke with one change, as a file; returns its name."""
    content = yaml.safe_load(yaml.safe_dump(SMOKE))
    change(content)
    (place / "configs" / "changed.yaml").write_text(yaml.safe_dump(content))
    return "changed"


def error_of(place, change):
    with pytest.raises(StudyError) as caught:
        load_study(write(place, change))
    assert str(place / "configs" / "changed.yaml") in str(caught.value)
    return str(caught.value)


def put(key, value):
    """A change that writes a value under a key such as sft.sft-support.steps."""
    *above, last = key.split("/") if "/" in key else key.split(".")

    def change(study):
        for part in above:
            study = study.setdefault(part, {})
        study[last] = value

    return change


@pytest.mark.parametrize("name", ["smoke", "pocket"])
def test_studies_load_and_parents_come_first(name):
    runs = load_study(name).runs()
    seen = set()
    for run in runs.values():
        assert run.parent is None or run.parent in seen
        seen.add(run.id)
    assert {run.section for run in runs.values()} == {"base", "sft", "scorers", "preference"}


def test_run_id_is_the_lineage():
    run = load_study("smoke").run("tiny-llama/sft-support/dpo-support/seed-0")
    assert (run.model, run.name, run.seed, run.parent) == (
        "tiny-llama",
        "dpo-support",
        0,
        "tiny-llama/sft-support/seed-0",
    )
    assert run.settings.beta == 0.1


def test_several_parents_and_seeds_multiply(place):
    def change(study):
        study["seeds"] = [0, 1]
        study["preference"] = {"dpo-support": study["preference"]["dpo-support"]}
        study["preference"]["dpo-support"]["parent"] = ["sft-neutral", "sft-support"]
        study |= {"findings": {}, "ablations": {}, "scorers": {}}

    runs = load_study(write(place, change)).runs()
    assert len(runs) == 2 * (1 + len(SMOKE["sft"]) + 2)  # the base model, and two of the DPO run
    assert "tiny-llama/sft-neutral/dpo-support/seed-1" in runs


def test_any_run_can_be_the_parent_of_any_other(place):
    def change(study):
        study["sft"]["sft-more"] = study["sft"]["sft-neutral"] | {"parent": "sft-support"}
        study["preference"]["simpo-support"]["parent"] = "sft-support/sft-more/dpo-support"
        study["preference"]["dpo-support"]["parent"] = ["sft-support", "sft-support/sft-more"]
        study["findings"] = {}

    runs = load_study(write(place, change)).runs()
    chain = "tiny-llama/sft-support/sft-more/dpo-support/simpo-support/seed-0"
    assert runs[chain].parent == "tiny-llama/sft-support/sft-more/dpo-support/seed-0"
    assert list(runs).index(runs[chain].parent) < list(runs).index(chain)


def test_runs_in_a_circle_are_no_runs(place):
    def change(study):
        study["sft"]["a"] = study["sft"]["sft-neutral"] | {"parent": "b"}
        study["sft"]["b"] = study["sft"]["sft-neutral"] | {"parent": "a"}

    assert "sft.a.parent: no run 'b'" in error_of(place, change)


def test_a_child_needs_its_parent_for_each_of_its_seeds(place):
    def change(study):
        study["seeds"] = [0, 1]
        study["sft"]["sft-support"]["seeds"] = [0]

    assert "parent: 'sft-support' has no seed 1; add it there" in error_of(place, change)


def test_an_entry_may_ask_for_some_of_the_seeds(place):
    def change(study):
        study["seeds"] = [0, 1]
        study["preference"]["simpo-support"]["seeds"] = [1]

    runs = load_study(write(place, change)).runs()
    assert [run.seed for run in runs.values() if run.name == "simpo-support"] == [1]
    message = error_of(place, lambda s: s["preference"]["simpo-support"].update(seeds=[3]))
    assert "preference.simpo-support.seeds: [3] are not all among seeds [0]" in message


def test_roles_and_ablations_name_runs_of_the_study(place):
    message = error_of(
        place, lambda s: s["findings"]["value-drifts"].update(dpo="sft-support/nobody")
    )
    assert (
        "findings.value-drifts.dpo: no run 'sft-support/nobody'; "
        "there are base, given, sft-neutral, sft-support" in message
    )
    message = error_of(place, lambda s: s["ablations"]["PPO"].update(key="beta"))
    assert "ablations.PPO.key: 'beta' is not a key of sft-support/ppo" in message


def test_epochs_count_whole_passes(place):
    def change(study):
        study["sft"]["sft-neutral"].pop("steps")
        study["sft"]["sft-neutral"]["epochs"] = 3

    settings = load_study(write(place, change)).run("tiny-llama/sft-neutral/seed-0").settings
    assert total_steps(settings, 50) == 3 * 7 and settings.length == "3 epochs"


def test_unknown_key(place):
    message = error_of(place, lambda s: s["probing"].update(temprature=1.0))
    assert "probing.temprature: unknown key" in message


def test_unknown_key_of_a_method(place):
    message = error_of(place, lambda s: s["sft"]["sft-neutral"].update(beta=0.1))
    assert "sft.sft-neutral.beta: unknown key" in message


def test_number_read_as_string(place):
    message = error_of(place, lambda s: s["sft"]["sft-neutral"].update(learning_rate="5e-7"))
    assert "sft.sft-neutral.learning_rate" in message and "write 5.0e-7" in message


def test_yaml_really_reads_it_as_a_string():
    assert yaml.safe_load("5e-7") == "5e-7" and yaml.safe_load("5.0e-7") == 5e-7


def test_wrong_type(place):
    assert "probing.samples" in error_of(place, lambda s: s["probing"].update(samples="two"))


def test_missing_key(place):
    assert "sft.sft-neutral: write either steps or epochs" in error_of(
        place, lambda s: s["sft"]["sft-neutral"].pop("steps")
    )


def test_missing_parent(place):
    message = error_of(place, lambda s: s["preference"]["dpo-support"].update(parent="sft-nobody"))
    assert (
        "preference.dpo-support.parent: no run 'sft-nobody'; there are base, dpo-pairs, dpo-support"
        in message
    )


def test_unknown_method(place):
    message = error_of(place, lambda s: s["preference"]["dpo-support"].update(method="magic"))
    assert "vd/methods/magic.py" in message


def test_adapters_must_match_the_parent(place):
    message = error_of(place, lambda s: s["preference"]["dpo-support"].update(lora={"r": 4}))
    assert "preference.dpo-support.lora" in message


def test_names_that_would_break_paths(place):
    for name in ("a/b", "a b", "base", "seed-1", "$x"):
        message = error_of(
            place, lambda s, name=name: s["sft"].update({name: s["sft"]["sft-neutral"]})
        )
        assert f"sft.{name}: not a run name" in message


def test_method_of_the_wrong_section(place):
    assert "no method of this section" in error_of(
        place,
        lambda s: (
            s["preference"]["dpo-support"].update(method="sft", beta=None)
            or s["preference"]["dpo-support"].pop("beta")
        ),
    )
    assert "no method of this section" in error_of(
        place, lambda s: s["sft"]["sft-neutral"].update(method="dpo")
    )


def test_unknown_data_set(place):
    message = error_of(place, lambda s: s["sft"]["sft-neutral"].update(data="nothing"))
    assert "sft.sft-neutral.data: no data set 'nothing'" in message and "sft_support" in message


def test_device_batch_size_must_divide(place):
    message = error_of(place, lambda s: s["sft"]["sft-neutral"].update(device_batch_size=3))
    assert "sft.sft-neutral.device_batch_size" in message and "must divide batch_size 8" in message


def test_a_study_is_named_by_its_file(place):
    assert "name: remove it" in error_of(place, lambda s: s.update(name="x"))


def test_unknown_study_lists_the_known():
    with pytest.raises(StudyError, match=r"pocket, .*smoke"):
        load_study("nothing")


def test_a_prompt_that_is_not_there(place):
    said = error_of(place, lambda c: c["judge"].update(api={"model": "m", "prompt": "stance-v9"}))
    assert "judge.api.prompt: no file" in said and "write stance-v1 or add it" in said
    assert "judge.api.share" in error_of(
        place, lambda c: c["judge"].update(api={"model": "m", "share": 0.0})
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda s: s["sft"]["sft-support"].update(data="prism"),
            r"sft.sft-support.data: 'prism' holds prompts.* write alpaca",
        ),
        (
            lambda s: s["preference"]["dpo-support"].update(data="prism"),
            r"'prism' holds prompts; .* write hh-rlhf, hh-rlhf-both, hh-rlhf-helpful, ultrafeedback",
        ),
        (
            lambda s: s["sft"]["sft-support"].update(data="wildchat", filters={"tongue": "x"}),
            r"filters: 'wildchat' has no tongue; its filters are max_words, language",
        ),
        (
            lambda s: s["sft"]["sft-support"].update(filters={"max_words": 9}),
            r"filters: 'sft_support' has no max_words; .* none",
        ),
        (
            lambda s: s.update(vprism={"source": ["prisma"]}),
            r"vprism.source: no data set 'prisma'; write one of .*prism",
        ),
        (
            lambda s: s.update(vprism={"source": ["prism"], "filters": {"kind": 1}}),
            r"vprism.filters: 'prism' has no kind",
        ),
    ],
)
def test_data_sets_must_fit_where_they_are_named(place, change, complaint):
    assert re.search(complaint, error_of(place, change))


def test_the_study_of_real_data_asks_what_it_builds():
    study = load_study("pocket-real")
    assert (
        study.asks_vprism
        and study.vprism.source == ["prism"]
        and not load_study("pocket").asks_vprism
    )
