"""What would stop a job later, or be ignored, is an error with key and fix before any work."""

import json
import re
from types import SimpleNamespace

import pytest
from test_study import SMOKE, error_of, put, write
from test_study_file import vd

from vd import paths, plugins
from vd.data import sets
from vd.judging import offline
from vd.study import roles
from vd.study.load import load_study
from vd.study.methods import methods
from vd.study.roles import role
from vd.study.settings import JudgeSettings
from vd.study.types import Settings

DPO, PPO = "preference.dpo-support", "preference.ppo-support"
PAIRS = "results/changed/recipes/pairs/data.jsonl or value_gap"  # of the preference runs


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seeds", [-1], "seeds.0: Input should be greater than or equal to 0"),
        ("seeds", [2**32], "seeds.0: Input should be less than 4294967296"),
        ("seeds", [0, 1, 0], "seeds: 0 is written twice; remove one"),
        ("seeds", 0, r"seeds: write a list, \[0\]"),
        ("seeds", None, "seeds: empty; write a value, or remove the key"),
        ("seeds", [], "seeds: write at least 1"),
        ("seeds", [True], "seeds.0: Input should be a valid integer"),
        ("judge.seed", -1, "judge.seed: Input should be greater than or equal to 0"),
        ("judge.seed", 2**32, "judge.seed: Input should be less than"),
        ("bootstrap.seed", -1, "bootstrap.seed: Input should be greater than or equal to 0"),
        ("vprism.seed", 2**32, "vprism.seed: Input should be less than"),
        (f"{DPO}.seeds", 0, rf"{DPO}.seeds: write a list, \[0\]"),
        (f"{DPO}.seeds", None, f"{DPO}.seeds: empty; write a value, or remove the key"),
        (f"{DPO}.seeds", [], f"{DPO}.seeds: write at least 1"),
        (f"{DPO}.seeds", [0, 0], f"{DPO}.seeds: 0 is written twice; remove one"),
        (
            f"{DPO}.seeds",
            ["0"],
            f"{DPO}.seeds.0: YAML reads '0' as a string; write 0.0|are not all among",
        ),
        ("sft.sft-support.parent", "sft-support", "sft.sft-support.parent: no run 'sft-support'"),
        (f"{DPO}.parent", "sft-support/reward", "gives scores and writes no texts"),
        ("evaluations.style.runs", ["nobody"], "evaluations.style.runs: no run 'nobody'; there ar"),
        # what a recipe makes is what a run reads
        ("sft.sft-neutral.data", "pairs", "sft.sft-neutral.data: recipe pairs makes pairs; name"),
        (f"{PPO}.scorer", "nobody", f"{PPO}.scorer: no scorer 'nobody'; there are sft-support/re"),
        (
            f"{PPO}.parent",
            "sft-neutral",
            f"{PPO}.scorer: no scorer 'reward'; there are sft-support",
        ),
        (f"{DPO}.parent", {"a": 1}, rf"{DPO}.parent: Input should be a valid string \(got"),
        (f"{DPO}.parent", [["sft-support"]], f"{DPO}.parent.0: Input should be a valid string"),
        (f"{DPO}.parent", [], f"{DPO}.parent: write at least 1"),
        (f"{DPO}.parent", ["sft-support"] * 2, f"{DPO}.parent: sft-support is written twice"),
        (f"{DPO}.parent", None, f"{DPO}.parent: empty; write a value"),
    ],
)
def test_seeds_and_parents_mean_one_thing(place, key, value, said):
    assert re.search(said, error_of(place, put(key, value)))


NO_METHODS = ["trainer", "reward", "a.b", "../x", "__init__", "DPO", "", 5, None, ["dpo"]]


@pytest.mark.parametrize("method", NO_METHODS)
def test_methods_are_the_files_that_hold_settings_and_train(place, method):
    said = error_of(place, put(f"{DPO}.method", method))
    assert f"{DPO}.method: " in said
    if isinstance(method, str):
        known = ", ".join(methods())
        assert f"no method '{method}'; write one of {known}" in said
        there = (paths.ROOT / "vd" / "methods" / f"{method}.py").exists()
        assert ("or add vd/methods" in said) == (method.isidentifier() and not there)
    assert "is not a method of this section" not in said


def test_an_entry_without_anything_in_it_is_no_run(place):
    said = error_of(place, put("sft.new", {}))
    for key in ("data", "save_every", "learning_rate"):
        assert f"sft.new.{key}: missing; add it" in said
    said = error_of(place, put("sft.new", None))
    assert "sft.new: empty; write a value, or remove the key" in said
    said = error_of(place, lambda s: s["preference"].update(new={}))
    assert "preference.new.method: missing; write method: dpo" in said
    assert "preference.new.parent: missing; write the run that it starts from" in said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "sft.sft-support.examples",
            221,
            "'sft_support' has 220; write at most that, or remove it",
        ),
        (
            "sft.sft-support.warmup_steps",
            4,
            "the learning rate is never reached in 4 steps; write fewer",
        ),
        (f"{PPO}.batch_size", 33, "a batch takes 33 prompts, and there are 32; lower it"),
        (
            f"{PPO}.response_length",
            128,
            "response_length must be below max_length, or no prompt has room",
        ),
        (f"{PPO}.cliprange", 1.0, "Input should be less than 1"),
        (f"{PPO}.temperature", 1e-9, "Input should be greater than or equal to 0.01"),
        (
            "scorers.reward.held_out",
            0.01,
            "0.01 of 32 pairs leaves too few on one side; write another share",
        ),
        (
            "scorers.reward.held_out",
            0.97,
            "0.97 of 32 pairs leaves too few on one side; write another share",
        ),
        (
            "scorers.reward.warmup_steps",
            4,
            "reward.warmup_steps: the learning rate is never reached in 4 steps",
        ),
        ("scorers.reward.reference_samples", 1, "Input should be greater than or equal to 2"),
        ("sft.sft-support.steps", 10**30, "steps: Input should be less than 2147483648"),
        (
            "probing.checkpoints",
            [3],
            "no run saves step 3, where save_every is 2; write all, last, or steps",
        ),
        ("probing.checkpoints", [2, 6], "no run saves step 6, where save_every is 2"),
        ("probing.checkpoints", [2, 2], "probing.checkpoints: 2 is written twice; remove one"),
        ("probing.checkpoints", [], "probing.checkpoints: write at least 1"),
        ("probing.checkpoints", [0], "probing.checkpoints.0: Input should be greater than 0"),
        ("probing.checkpoints", "some", "probing.checkpoints: Input should be 'all' or 'last'"),
        (
            "probing.temperature",
            -0.1,
            "probing.temperature: Input should be greater than or equal to 0",
        ),
        (
            "probing.temperature",
            70,
            "probing.temperature: Input should be less than or equal to 10",
        ),
        ("probing.temperature", 1e-40, "probing.temperature: must be 0 or at least 0.01"),
        (
            "probing.per_topic",
            51,
            "probing.per_topic: there are 50 probes a topic; write at most that",
        ),
        (
            "bootstrap.resamples",
            39,
            "bootstrap.resamples: too few for alpha 0.05; write at least 40",
        ),
        (
            "bootstrap.resamples",
            10**9,
            "bootstrap.resamples: Input should be less than or equal to 100000",
        ),
        ("bootstrap.alpha", 0.007, "resamples: too few for alpha 0.007; write at least 286"),
        ("bootstrap.alpha", 1e-300, "alpha: Input should be greater than or equal to 0.0001"),
        ("bootstrap.alpha", 0.95, "bootstrap.alpha: Input should be less than or equal to 0.5"),
        (
            "judge.max_length",
            600,
            "judge.max_length: random:bert reads 512 tokens; write at most that",
        ),
        ("judge.max_length", 2, "judge.max_length: Input should be greater than or equal to 8"),
        ("judge.examples", 1501, "judge.examples: Input should be less than or equal to 1500"),
        ("vprism.n_neighbors", 1, "vprism.n_neighbors: Input should be greater than or equal to 2"),
        (
            "vprism.n_neighbors",
            770,
            "vprism.n_neighbors: its sources hold 770 prompts; write at most 769",
        ),
        (
            "vprism.n_components",
            5000,
            "vprism.n_components: Input should be less than or equal to 100",
        ),
        (
            "vprism.min_cluster_size",
            1,
            "vprism.min_cluster_size: Input should be greater than or equal to 2",
        ),
        ("vprism.min_cluster_size", 771, "vprism.min_cluster_size: its sources hold 770 prompts"),
    ],
)
def test_numbers_that_would_stop_a_job_later_or_be_ignored(place, key, value, said):
    found = error_of(place, put(key, value))
    assert said in found and key.rpartition(".")[0] in found


def test_numbers_just_inside_are_taken(place):
    def change(study):
        put("sft.sft-support.examples", 220)(study)
        put("sft.sft-support.warmup_steps", 3)(study)
        put(f"{PPO}.batch_size", 32)(study)
        put(f"{PPO}.response_length", 127)(study)
        put("probing.checkpoints", [4, 2])(study)
        put("probing.per_topic", 50)(study)
        put("probing.temperature", 0.01)(study)
        put("bootstrap.resamples", 40)(study)
        put("seeds", [2**32 - 1])(study)
        put("vprism.min_cluster_size", 770)(study)

    study = load_study(write(place, change))
    assert study.run(f"tiny-llama/sft-support/seed-{2**32 - 1}").settings.warmup_steps == 3


def test_a_subset_of_the_judge_corpus_of_the_largest_size_is_there_whatever_the_seed():
    counts = sets.corpus("judge")["prompt"].value_counts()  # descending
    held_out = round(len(counts) * offline.HELD_OUT)
    assert counts.iloc[held_out:].sum() >= 1500  # where the longest questions are all held out
    assert len(offline.split(JudgeSettings(examples=1500, seed=3))[0]) == 1500


def test_steps_of_epochs_are_known_where_the_rows_are(place):
    def change(study):
        study["sft"]["sft-support"].pop("steps")
        study["sft"]["sft-support"].update(epochs=1.0, warmup_steps=4)  # 32 rows in batches of 8

    assert "never reached in 4 steps" in error_of(place, change)

    def own(study):
        change(study)
        study["sft"]["sft-support"].update(data="results/x/later.jsonl", warmup_steps=4000)
        study["sft"]["sft-support"].pop("examples")
        study["probing"]["checkpoints"] = [600]  # a multiple of save_every, so that run may save it

    assert load_study(write(place, own)).probing.checkpoints == [600]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "probs",
            "no data set 'probs'; write one of probes or the path of a file ending in .jsonl",
        ),
        ("sft_neutral", "'sft_neutral' holds no prompt_id|probes; of embedded sets write probes"),
        ("alpaca", "'alpaca' holds texts; write probes"),
        ("no/such.jsonl", "no file .*no/such.jsonl; make it first, or correct its name"),
        ("results/other/vprism.jsonl", "no file .*vprism.jsonl; make it first"),
        ("PAIRS", "is no probe set, its first row has no polarity and topic; add it"),
    ],
)
def test_probes_are_a_probe_set_that_is_there(place, name, said):
    if name == "PAIRS":
        pair = {"prompt": "Why?", "chosen": "a", "rejected": "b"}
        (place / "pairs.jsonl").write_text(json.dumps(pair))
        name = str(place / "pairs.jsonl")
    assert re.search(f"probing.probes: .*{said}", error_of(place, put("probing.probes", name)))


def test_probes_of_ones_own_and_those_that_a_study_builds_are_taken(place):
    rows = [json.dumps(row) for row in sets.corpus("probes").head(3).to_dict("records")]
    (place / "mine.jsonl").write_text("\ufeff\n" + "\n".join(rows), encoding="utf-8")
    for name in (str(place / "mine.jsonl"), "results/changed/vprism.jsonl"):
        assert load_study(write(place, put("probing.probes", name))).probing.probes == name


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        (
            "sft.sft-support",
            "openers",
            "'openers' holds no completion; of embedded sets write benevolence",
        ),
        (
            DPO,
            "sft_neutral",
            "'sft_neutral' holds no chosen and rejected; of embedded sets write assistant",
        ),
        (DPO, "../corpora/value_gap", "no data set '../corpora/value_gap'; write one of"),
        (DPO, "not/there.jsonl", "not/there.jsonl; make it first, or correct its name"),
        (DPO, "x" * 300 + ".jsonl", "make it first, or correct its name"),
        (DPO, "a\0b.jsonl", "make it first, or correct its name"),
    ],
)
def test_training_data_are_there_and_of_the_right_kind(place, key, name, said):
    found = error_of(place, put(f"{key}.data", name))
    assert f"{key}.data: " in found and said in found


def test_data_in_results_may_be_made_later_and_the_plan_says_so(place):
    name = write(place, put(f"{DPO}.data", "results/other/synthetic_pairs.jsonl"))
    assert load_study(name).run("tiny-llama/sft-support/dpo-support/seed-0")
    assert "results/other/synthetic_pairs.jsonl is not there yet; make it first" in vd(name).stdout


def test_rows_of_a_file_are_counted(place):
    rows = [json.dumps({"prompt": str(n), "completion": "x"}) for n in range(31)]
    (place / "own.jsonl").write_text("\n".join(rows))
    said = error_of(place, put("sft.sft-support.data", str(place / "own.jsonl")))
    assert "sft.sft-support.examples:" in said and "has 31; write at most that" in said


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"toxic": "no"}, "filters.toxic: write true or false, without quotes"),
        ({"language": 3}, "filters.language: YAML reads 3 as a number; put quotes around it"),
        ({"language": False}, "filters.language: YAML reads yes, no, on and off as true and false"),
        ({"max_words": 0}, "filters.max_words: Input should be greater than 0"),
        ({"max_words": -5}, "filters.max_words: Input should be greater than 0"),
        ({"max_words": "200"}, "filters.max_words: YAML reads '200' as a string; write 200"),
        ({"model": None}, "filters.model: empty; write a value"),
    ],
)
def test_filters_are_of_their_types(place, filters, said):
    found = error_of(place, filtered("sft.sft-support", "wildchat", filters))
    assert f"sft.sft-support.{said}" in found


def filtered(key, name, filters):
    """A change that gives a run another data set with filters."""
    return lambda study: put(f"{key}.data", name)(study) or put(f"{key}.filters", filters)(study)


def test_filters_of_other_sets_are_of_their_types_too(place):
    said = error_of(place, filtered(DPO, "ultrafeedback", {"min_margin": "x"}))
    assert f"{DPO}.filters.min_margin: 'x' is not a number; write one" in said
    bad = {"source": ["prism"], "filters": {"types": "values guided"}}
    said = error_of(place, put("vprism", bad))
    assert "vprism.filters.types: write a list, [values guided]" in said
    good = {"source": ["prism"], "filters": {"types": ["values guided"], "max_words": 50}}
    assert load_study(write(place, put("vprism", good))).vprism.filters == good["filters"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("prism", r"vprism.source: write a list, \[prism\]"),
        ([], "vprism.source: write at least 1"),
        (["probes", "probes"], "vprism.source: probes is written twice; remove one"),
        (["topics"], "vprism.source: 'topics' holds no prompt; of embedded sets write"),
        (["results/changed/vprism.jsonl"], "is what is built from it; write other prompts"),
        (
            ["judge"],
            "vprism.source: nobody has read these prompts; add prism or probes, or name a",
        ),
        (["alpaca"], "vprism.source: nobody has read these prompts"),
    ],
)
def test_vprism_is_built_from_prompts_that_can_be_used(place, source, said):
    assert re.search(said, error_of(place, put("vprism", {"source": source})))


@pytest.mark.parametrize(
    ("key", "source", "said"),
    [
        (
            "models.tiny-llama",
            "embedded:typo",
            "no model 'embedded:typo'; write embedded:smollm2-135m-instruct",
        ),
        (
            "models.tiny-llama",
            "random:typo",
            "no model 'random:typo'; write embedded:smollm2-135m-instruct",
        ),
        ("models.tiny-llama", "random:bert", "random:bert is an encoder and writes no text; write"),
        (
            "models.tiny-llama",
            "embedded:minilm",
            "embedded:minilm is an encoder and writes no text",
        ),
        ("models.tiny-llama", "https://hub/x", "no model 'https://hub/x'; write"),
        (
            "models.tiny-llama",
            "/no/such/folder",
            "no folder '/no/such/folder', and no name of the hub",
        ),
        ("models.tiny-llama", "tests", "holds no config.json; name the folder of a whole model"),
        ("models.tiny-llama", "", "String should have at least 1 character"),
        ("models.tiny-llama", "a/b/c", "no folder 'a/b/c', and no name of the hub, owner/name"),
        ("judge", "embedded:typo", "no model 'embedded:typo'; write .*embedded:minilm"),
        ("judge", "embeded:minilm", "no model 'embeded:minilm'; write .*embedded:minilm"),
        ("vprism.embedding", "random:typo", "no model 'random:typo'; write .*embedded:minilm"),
    ],
)
def test_sources_of_models_are_known_or_could_be_names_of_the_hub(place, key, source, said):
    assert re.search(f"{key}.source: .*{said}", error_of(place, put(f"{key}.source", source)))


def test_a_folder_with_a_model_is_a_source_and_has_no_revisions(place):
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text("{}")
    source = put("models.tiny-llama.source", str(place / "model"))
    assert load_study(write(place, source)).models["tiny-llama"].source == str(place / "model")
    revised = lambda s: source(s) or put("models.tiny-llama.revision", "main")(s)  # noqa: E731
    said = "models.tiny-llama.revision: only models of the hub have revisions; remove it"
    assert said in error_of(place, revised)
    assert said in error_of(place, put("models.tiny-llama.revision", "main"))


def test_what_embeddings_do_not_heed_is_an_error(place):
    embedding = {"source": "random:bert", "dtype": "bfloat16", "prompt_format": "response"}
    said = error_of(place, put("vprism", {"embedding": embedding}))
    assert "vprism.embedding.dtype: texts are embedded in float32; write that, or remove it" in said
    assert "vprism.embedding.prompt_format: texts are embedded as they are; remove it" in said


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("low_gap_data", "typo", f"'typo' is no data set of a preference run; write {PAIRS}"),
        ("low_gap_data", "low_gap", f"'low_gap' is no data set of a preference run; write {PAIRS}"),
        ("dpo", "sft-support", "'sft-support' is no dpo run; write sft-support/dpo-support"),
        ("low_gap", "base", "'base' is no preference run; write"),
        (
            "sft_neutral",
            "sft-support/dpo-support",
            "is no sft run; write given or sft-neutral or sft-support",
        ),
        ("dpo", "sft-support/simpo-support", "is no dpo run; write sft-support/dpo-support"),
        (
            "ppo_large_kl",
            "sft-support/ppo-support",
            "the same as ppo_small_kl, which it is compared with",
        ),
        ("sft_support", "sft-neutral", "the same as sft_neutral, which it is compared with"),
    ],
)
def test_roles_are_played_by_runs_and_data_that_can(place, role, name, said):
    found = error_of(place, put(f"findings.value-drifts.{role}", name))
    assert f"findings.value-drifts.{role}: " in found and said in found


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("value-drift", {}, "value-drift: no paper 'value-drift'; write one of constitutional-ai"),
        (
            "value_drifts",
            {},
            "value_drifts: no paper 'value_drifts'; write one of constitutional-ai",
        ),
        ("dpo", "sft-support/dpo-support", "dpo: write keys and their values, one a line"),
        ("value-drifts", None, "value-drifts: empty; write a value, or remove the key"),
        ("value-drifts", {"dppo": "base"}, "value-drifts.dppo: unknown key; remove it or"),
        ("value-drifts", {"dpo": 5}, "value-drifts.dpo: YAML reads 5 as a number; put quotes"),
    ],
)
def test_findings_are_roles_of_papers_that_are_there(place, key, value, said):
    assert f"findings.{said}" in error_of(place, put(f"findings/{key}", value))


def the_paper_is(monkeypatch, read):
    """Papers are what `read` returns; methods and all else are loaded as ever."""
    load = plugins.load
    own = lambda room, name: read() if room == roles.ROOM else load(room, name)  # noqa: E731
    monkeypatch.setattr(plugins, "load", own)


@pytest.mark.parametrize(
    ("kind", "method", "able"),
    [
        ("run", None, {"sft-support", "sft-support/dpo-support", "sft-support/simpo-support"}),
        ("preference", None, {"sft-support/dpo-support", "sft-support/simpo-support"}),
        ("run", "dpo", {"sft-support/dpo-support"}),
        ("run", ("dpo", "simpo"), {"sft-support/dpo-support", "sft-support/simpo-support"}),
        ("sft", None, {"sft-support"}),
        ("data", None, {"value_gap"}),
    ],
)
def test_a_paper_says_who_may_play_a_role(monkeypatch, kind, method, able):
    class Roles(Settings):
        part: str | None = role(kind, method)

    own = SimpleNamespace(TITLE="own", Roles=Roles, FINDINGS=[])
    smoke = load_study("smoke")
    the_paper_is(monkeypatch, lambda: own)

    def refused(name):
        named = smoke.model_copy(update={"findings": {"value-drifts": {"part": name}}})
        return list(roles.of_runs(named, smoke.runs()))

    lineages = ("sft-support", "sft-support/dpo-support", "sft-support/simpo-support")
    assert {name for name in ("base", *lineages, "value_gap") if not refused(name)} == able


class OwnRoles(Settings):
    part: str | None = role("run")
    other: str | None = None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"TITLE": "own"}, "Roles, FINDINGS missing; add what is missing"),
        ({"TITLE": "own", "Roles": dict, "FINDINGS": []}, "Roles must build on Settings"),
        ({"TITLE": "own", "Roles": OwnRoles, "FINDINGS": []}, "role other does not say what may"),
        (
            {"TITLE": "own", "Roles": Settings, "FINDINGS": [SimpleNamespace(key="k", roles="x")]},
            "finding k: no role x; add it to Roles",
        ),
    ],
)
def test_a_paper_that_lacks_something_is_named_with_the_fix(place, monkeypatch, content, said):
    the_paper_is(monkeypatch, lambda: SimpleNamespace(**content))
    found = error_of(place, put("findings.value-drifts", {}))
    assert f"findings.value-drifts: vd/findings/papers/value_drifts.py: {said}" in found


def test_a_paper_that_cannot_be_imported_is_named(place, monkeypatch):
    def broken():
        raise SyntaxError("invalid syntax")

    the_paper_is(monkeypatch, broken)
    said = "value_drifts.py cannot be imported (SyntaxError: invalid syntax); correct it"
    assert said in error_of(place, put("findings.value-drifts", {}))


def test_runs_of_findings_have_a_seed_in_common(place):
    def change(study):
        study["seeds"] = [0, 1]
        study["preference"]["dpo-support"]["seeds"] = [0]
        study["preference"]["simpo-support"]["seeds"] = [1]

    said = error_of(place, change)
    assert "findings.value-drifts: its runs have no seed in common" in said
    assert "sft-support/dpo-support [0]" in said


@pytest.mark.parametrize(
    ("key", "runs", "said"),
    [
        ("model_dump", None, "PPO.key: 'model_dump' is not a key of sft-support/ppo-support"),
        (
            "schedule",
            None,
            "PPO.key: 'schedule' is not a number in all its runs; write a key that is",
        ),
        ("swap_labels", None, "PPO.key: 'swap_labels' is not a number in all its runs"),
        (
            "missing_eos_penalty",
            None,
            "PPO.key: 'missing_eos_penalty' is not a number in all its runs",
        ),
        (
            "batch_size",
            None,
            "PPO.runs: batch_size is 8 in all of them; name runs that differ in it",
        ),
        ("kl_coef", ["sft-support/ppo-support"], "PPO.runs: write at least 2"),
        (
            "kl_coef",
            ["sft-support/ppo-support"] * 2,
            "PPO.runs: sft-support/ppo-support is written twice",
        ),
        ("kl_coef", ["sft-support/ppo-support", "base"], "PPO.key: 'kl_coef' is not a key of base"),
        (
            "kl_coef",
            ["sft-support/ppo-support", "nobody"],
            "PPO.runs: no run 'nobody'; there are base",
        ),
    ],
)
def test_an_ablation_varies_a_number(place, key, runs, said):
    change = {"key": key, "runs": runs or SMOKE["ablations"]["PPO"]["runs"]}
    assert f"ablations.{said}" in error_of(place, put("ablations.PPO", change))


NO_MODELS = ["data", "notebooks", "Tables", "BASE", "drift.csv", "con", "m.", "-m", "m" * 101]


@pytest.mark.parametrize("name", NO_MODELS)
def test_models_have_no_names_of_something_else(place, name):
    said = error_of(place, lambda s: s["models"].update({name: s["models"]["tiny-llama"]}))
    assert "not a model name" in said and "models." in said


def test_names_do_not_differ_in_case_alone(place):
    for section, name in (
        ("models", "Tiny-Llama"),
        ("sft", "SFT-support"),
        ("preference", "DPO-support"),
    ):
        alike = put(f"{section}.{name}", SMOKE[section][name.lower()])
        said = error_of(place, alike)
        assert f"{section}.{name}: differs from another name in case only" in said


@pytest.mark.parametrize("prompt", ["vprism-v1", "../prompts/stance-v1", "stance-v9"])
def test_an_api_judge_asks_for_stances(place, prompt):
    said = error_of(place, put("judge.api", {"model": "m", "prompt": prompt}))
    assert "judge.api.prompt: " in said and "write stance-v1" in said


def test_what_is_said_of_a_server_holds_nothing_of_its_address(place):
    for value in ({"a": "hunter2"}, ["hunter2"]):
        api = {"model": "m", "base_url": value, "budget_dollars": 1.0}
        assert "hunter2" not in error_of(place, put("judge.api", api))
    api = {"model": "m", "base_url": "http://me:hunter2@host/v1", "budget_dollars": 1.0}
    assert "hunter2" not in error_of(place, put("judge.api", api))
    assert "hunter2" not in error_of(place, put("judge.api", "hunter2"))


def test_all_mistakes_are_said_at_once(place):
    def change(study):
        put("probing.probes", "probs")(study)
        put("sft.sft-support.save_every", 0)(study)
        put(f"{DPO}.parent", "nobody")(study)
        put("judge.source", "embedded:typo")(study)

    keys = [line.split(": ")[1] for line in error_of(place, change).splitlines()]
    assert sorted(keys) == [
        "judge.source",
        f"{DPO}.parent",
        "probing.probes",
        "sft.sft-support.save_every",
    ]
