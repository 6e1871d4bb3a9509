"""What things are made from: a change re-runs what it can change, and nothing else."""

import os
import shutil

import nbformat
import pytest

from vd import paths
from vd.store import fingerprint
from vd.store.files import write_text
from vd.store.fingerprint import Fingerprint
from vd.store.syntax import plain_text
from vd.study.load import load_study
from vd.study.servers import ApiJudgeSettings
from vd.workflow import notebooks, plan

NOTHING = set()
TRAINING = {"01_sft", "02_scorer", "02_preference"}


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of vd that hashes are taken of; returns the function that edits or adds a file."""
    shutil.copytree(paths.ROOT / "vd", tmp_path / "vd")
    monkeypatch.setenv("VD_CONFIGS", str(paths.configs()))
    monkeypatch.setattr(paths, "ROOT", tmp_path)

    def edit(file, old, new):
        place = tmp_path / "vd" / file
        text = place.read_text() if place.exists() else ""
        assert old in text, f"{file} no longer holds {old!r}"
        place.write_text(text.replace(old, new, 1))

    return edit


def touched(change, study="smoke"):
    """Notebooks that are made from something else after a change, which may give another study."""
    study = load_study(study)
    before = plan.made_from(study)
    after = plan.made_from(change(study) or study)
    assert before.keys() == after.keys()
    return {job[0] for job in after if after[job].text != before[job].text}


CHANGES_NO_NUMBER = {
    "an error text": ("training/trainer.py", "is not trained to its end", "is not ready"),
    "what an error says, put together before": ("models/locate.py", "cannot be loaded", "is bad"),
    "a check": (
        "training/trainer.py",
        "    folder, timer, rows =",
        "    if run.seed < 0:\n        raise ValueError(run.seed)\n    folder, timer, rows =",
    ),
    "a check of a study": ("study/checks.py", "too few for alpha", "not enough for alpha"),
    "a line of progress": ("training/report.py", 'f"loss {', 'f"the loss is {'),
    "how often progress is shown": (
        "store/progress.py",
        "every: float = 10.0",
        "every: float = 3.0",
    ),
    "a comment": ("methods/dpo.py", "from pathlib", "# why\nfrom pathlib"),
    "a docstring": ("methods/dpo.py", "Keys of a DPO run", "What a DPO run takes"),
    "another function in the same file": (
        "data/sets.py",
        "def corpus(",
        "def new(): ...\n\n\ndef corpus(",
    ),
    "another file of the same room": ("training/more.py", "", "MORE = 1\n"),
    "a new method": ("methods/new.py", "", "READS = MAKES = CURVES = Settings = train = None\n"),
    "a new public data set": ("data/public/new.py", "", "KIND = 'texts'\n"),
    "a data set that nobody reads": ("data/public/alpaca.py", '"no output"\n', '"nothing"\n'),
    "a paper that the study does not name": ("findings/papers/other.py", "", "FINDINGS = []\n"),
    "a key with its default": (
        "methods/dpo.py",
        "    beta: PositiveFloat = 0.1",
        "    label_smoothing: float = 0.0\n    beta: PositiveFloat = 0.1",
    ),
    "how jobs are run": ("workflow/launch.py", "PATIENCE = 5.0", "PATIENCE = 6.0"),
    "a server's pace, where none is asked": (
        "servers/client.py",
        "CONNECTING = ",
        "CONNECTING = 1 + ",
    ),
}


@pytest.mark.parametrize("what", CHANGES_NO_NUMBER)
def test_what_changes_no_number_runs_nothing_again(code, what):
    assert touched(lambda _: code(*CHANGES_NO_NUMBER[what])) == NOTHING


def again(changed, run=""):
    """Jobs of some run that are made again, by notebook."""
    return {notebook for notebook, about in changed if run in (about or "")}


def jobs_touched(study, change):
    before = plan.made_from(study)
    change()
    after = plan.made_from(study)
    return {job for job in after if after[job].text != before[job].text}


def test_a_loss_trains_the_runs_of_its_method_again_and_no_others(code):
    edit = ("training/pairs.py", 'loss_type=["sigmoid"]', 'loss_type=["ipo"]')
    found = jobs_touched(load_study("smoke"), lambda: code(*edit))
    runs = load_study("smoke").runs().values()
    assert found == {("02_preference", run.id) for run in runs if run.method == "dpo"}


def test_a_chat_template_trains_and_asks_again(code):
    assert touched(lambda _: code("models/chat.py", "assistant", "helper")) >= TRAINING | {
        "03_probe"
    }


def test_a_sampling_rule_asks_again_and_trains_nothing(code):
    found = touched(lambda _: code("probing/sampling.py", "right=True", "right=False"))
    assert "03_probe" in found and not found & TRAINING


def test_a_colour_draws_again_and_no_more(code):
    assert touched(lambda _: code("figures/style.py", "#0072b2", "#000000")) == {"06_figures"}


def test_a_papers_finding_is_tested_again_and_no_more(code):
    edit = ("findings/papers/value_drifts.py", "drift above 0.10", "drift above 0.1")
    assert touched(lambda _: code(*edit)) == {"08_findings"}


def test_the_judges_corpus_judges_again_and_trains_nothing(tmp_path, monkeypatch):
    corpora = shutil.copytree(paths.CORPORA, tmp_path / "corpora")
    monkeypatch.setattr(paths, "CORPORA", corpora)

    def add_a_row(_):
        with open(corpora / "judge.jsonl", "a") as file:
            file.write("\n")

    found = touched(add_a_row)
    assert {"00_stance_profile", "04_judge", "04_trust"} <= found
    assert not found & {*TRAINING, "03_probe", "05_drift"}


def test_a_filter_of_a_data_set_trains_the_runs_that_read_it(code):
    entry = load_study("smoke").sft["sft-neutral"] | {"data": "alpaca"}
    study = load_study("smoke")
    study = study.model_copy(update={"sft": study.sft | {"sft-neutral": entry}})
    edit = CHANGES_NO_NUMBER["a data set that nobody reads"]
    found = jobs_touched(study, lambda: code(*edit))
    runs = {about for notebook, about in found if notebook in TRAINING}
    assert runs == {"tiny-llama/sft-neutral/seed-0"}


def test_a_changed_default_counts_and_a_new_key_with_its_default_does_not(tmp_path):
    run = load_study("smoke").run("tiny-llama/sft-support/dpo-support/seed-0")
    asked = Fingerprint(**fingerprint.values(run=run))
    older = Fingerprint({k: v for k, v in asked.settings.items() if not k.endswith("weight_decay")})
    other = Fingerprint(asked.settings | {"run.settings.weight_decay": 0.1})
    for record, changes in (
        (asked, []),
        (older, []),
        (other, ["settings run.settings.weight_decay"]),
    ):
        record.write(tmp_path / "made.json")
        assert asked.changes(tmp_path / "made.json") == changes
    unwritten = Fingerprint(asked.settings, defaults=asked.defaults - {"run.settings.weight_decay"})
    older.write(tmp_path / "made.json")
    assert unwritten.changes(tmp_path / "made.json") == ["settings run.settings.weight_decay"]


@pytest.mark.parametrize("kept", ["", "{}", "[]", '{"settings": 1}', "settings=1 data=2 code=3"])
def test_a_record_that_cannot_be_read_differs_in_all(tmp_path, kept):
    (tmp_path / "made.json").write_text(kept)
    assert Fingerprint({"a": 1}).changes(tmp_path / "made.json") == ["all"]


def test_what_differs_is_named(tmp_path):
    Fingerprint({"a": 1}, {"judge": "x"}, {"vd.a.f": "y"}).write(tmp_path / "made.json")
    asked = Fingerprint({"a": 2}, {"judge": "z"}, {"vd.a.g": "y"})
    found = asked.changes(tmp_path / "made.json")
    assert found == ["settings a", "data judge", "code vd.a.f", "code vd.a.g"]


def test_code_is_the_same_in_every_python():
    import ast

    plain = 'def f(x: int, *, y=None) -> list:\n    return [f"{x!r:>{y}} {{}}", "\\n", 1.5, ...]'
    written = plain.replace("    return", '    """What it\'s for."""\n    # why\n    return')
    checked = plain.replace("    return", "    if x < 0:\n        raise ValueError(x)\n    return")
    of = [
        fingerprint.digest(plain_text(ast.parse(text)))
        for text in (plain, written, checked, plain.replace("1.5", "2.5"))
    ]
    by_python_3_11_to_3_13 = "40d236f46df39677"
    assert of[0] == of[1] == of[2] == by_python_3_11_to_3_13 != of[3]


def test_cells_count_prose_does_not(tmp_path):
    source = paths.notebook("05_drift")
    book = nbformat.read(source, 4)
    book.cells[0].source += " More prose."
    book.cells[2].outputs = []
    nbformat.write(book, tmp_path / "prose.ipynb")
    cells = [fingerprint.code(sources=notebooks.code_cells(source))]
    cells.append(fingerprint.code(sources=notebooks.code_cells(tmp_path / "prose.ipynb")))
    next(c for c in book.cells if c.cell_type == "code").source += "\nx = 1"
    nbformat.write(book, tmp_path / "code.ipynb")
    cells.append(fingerprint.code(sources=notebooks.code_cells(tmp_path / "code.ipynb")))
    assert cells[0] == cells[1] != cells[2]


def test_a_servers_pace_is_code_of_studies_that_ask_one(code):
    study, api = load_study("smoke"), ApiJudgeSettings(model="m")
    asking = study.model_copy(update={"judge": study.judge.model_copy(update={"api": api})})
    edit = ("servers/client.py", "CONNECTING = ", "CONNECTING = 1 + ")
    assert "04_judge" in again(jobs_touched(asking, lambda: code(*edit)))


def mirror_of(folder, *names):
    for name in names:
        write_text("{}\n", folder / name)


def test_a_mirror_that_is_set_afterwards_is_read(tmp_path, monkeypatch):
    def set_mirror(_):
        mirror_of(tmp_path, "alpaca/train.jsonl", "argkp/arguments_dev.csv")
        monkeypatch.setenv("VD_DATA_DIR", str(tmp_path))

    assert touched(set_mirror) == {"00_stance_profile", "04_trust"}


def test_clusters_of_prism_that_come_later_are_compared_with(tmp_path, monkeypatch):
    monkeypatch.setenv("VD_DATA_DIR", str(tmp_path))
    found = touched(lambda _: mirror_of(tmp_path, "prism/clusters.csv"), "pocket-real")
    assert found == {"A1_vprism"}


def test_an_ablations_name_is_in_its_figure():
    def rename(study):
        (ablation,) = study.ablations.values()
        return study.model_copy(update={"ablations": {"another name": ablation}})

    assert touched(rename) == {"06_figures"}


def test_other_probes_are_compared_with_the_training_data():
    def ask_fewer(study):
        probing = study.probing.model_copy(update={"per_topic": 1})
        return study.model_copy(update={"probing": probing})

    assert touched(ask_fewer) == {"00_data", "03_probe"}


def test_fewer_examples_are_read_by_their_run_alone():
    study = load_study("smoke")
    entry = study.preference["dpo-support"] | {"examples": 10}
    fewer = study.model_copy(update={"preference": study.preference | {"dpo-support": entry}})
    before, after = plan.made_from(study), plan.made_from(fewer)
    found = {job for job in after if after[job].text != before[job].text}
    assert again(found) & TRAINING == {"02_preference"}


def test_a_model_that_was_replaced_in_its_folder_is_another_model(tmp_path):
    (tmp_path / "model.safetensors").write_text("weights")

    def local(study, when):
        os.utime(tmp_path / "model.safetensors", (when, when))
        (name,) = study.models
        model = study.models[name].model_copy(update={"source": str(tmp_path)})
        return plan.made_from(study.model_copy(update={"models": {name: model}}))

    before, after = local(load_study("smoke"), 1000), local(load_study("smoke"), 2000)
    found = {job[0] for job in after if after[job].text != before[job].text}
    assert found == TRAINING | {"01_given", "03_probe"}


def test_a_servers_answers_are_made_from_how_it_is_asked(code):
    """A recipe that a server writes, in a study whose judge is offline; one by a run is not."""
    study, edit = load_study("smoke"), ("servers/client.py", "CONNECTING = ", "CONNECTING = 1 + ")
    entry = study.recipes["pairs"] | {"writer": {"model": "m"}}
    served = study.model_copy(update={"recipes": {"pairs": entry}})
    assert jobs_touched(served, lambda: code(*edit)) == {("A2_recipe", "recipes/pairs")}


def test_an_assignment_for_its_effect_counts(code):
    draw = "    _ = np.random.rand()\n    answered = []"
    edit = ("probing/sampling.py", "    answered = []", draw)
    assert "03_probe" in touched(lambda _: code(*edit))


def test_defaults_of_evaluations_and_recipes_count():
    """They are settings as those of runs are, whether a study writes them or not."""
    study = load_study("smoke")
    entry = {"recipe": "synthetic_pairs", "writer": "sft-neutral", "judge": False}
    short = study.model_copy(update={"recipes": {"pairs": entry}, "evaluations": {"held_out": {}}})
    asked = plan.made_from(short)
    recipe = asked["A2_recipe", "recipes/pairs"]
    assert recipe.settings["recipe.prompts"] == "value_gap" and "value_gap" in recipe.data
    assert "recipe.prompts" in recipe.defaults
    evaluated = asked["04_evaluate", "tiny-llama/base/seed-0"]
    assert "evaluations.held_out.rows" in evaluated.defaults


def test_no_job_depends_on_where_a_checkout_lies():
    """A constitution and a server's prompts are files of ours: named from the root."""
    study = load_study("smoke")
    judge = study.judge.model_copy(update={"api": ApiJudgeSettings(model="m")})
    made = plan.made_from(study.model_copy(update={"judge": judge}))
    named = {name for job in made.values() for name in job.data}
    assert {"vd/prompts/constitution.yaml", "vd/prompts/stance-v1.yaml"} <= named
    assert not [name for name in named if name.startswith(str(paths.ROOT))]
