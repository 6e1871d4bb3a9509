"""Recipes: data sets made during a study, by a run on this machine or by a server.

Nothing is lost, nothing is asked or paid for twice, and every row says where it comes from.
"""

import io
import json
import subprocess
import sys
import time

import pandas as pd
import papermill
import pytest
import yaml
from api_server import KEY

from vd import paths
from vd.data import sets
from vd.models import loading
from vd.probing import responders
from vd.recipes import make
from vd.recipes.make import make_recipe
from vd.servers import client
from vd.servers.budget import BudgetError
from vd.store import files
from vd.study import recipes
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.study.settings import Lora, PreferenceSettings

BY_RUN = {"recipe": "synthetic_pairs", "writer": "base", "size": 3, "judge": False}
BY_RUN |= {"max_new_tokens": 8, "batch_size": 2}
COLUMNS = ["id", "topic", "prompt", "chosen", "rejected", "chosen_stance", "rejected_stance"]
RUN_COLUMNS = ["writer", "writer_step", "temperature", "max_new_tokens", "seed"]


def study_with(place, **entries):
    """The study smoke with recipes of its own, as `mine`, and no run that trains on smoke's."""
    content = yaml.safe_load((paths.NOTEBOOKS / "configs" / "smoke.yaml").read_text())
    content["recipes"] = entries
    del content["preference"]["dpo-pairs"]
    (place / "configs" / "mine.yaml").write_text(yaml.safe_dump(content))
    return load_study("mine")


def rows_of(name="pairs"):
    """The rows that a recipe of `mine` made."""
    text = (paths.recipe("mine", name) / paths.RECIPE_DATA).read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def asked(monkeypatch):
    """Ids of the prompts that a model was asked, in order."""
    found, ask = [], responders.ask

    def noted(model, tokenizer, rows, *more):
        found.extend(rows["prompt_id"])
        return ask(model, tokenizer, rows, *more)

    monkeypatch.setattr(responders, "ask", noted)
    return found


def test_a_run_writes_rows_that_say_so_and_is_asked_once(place, asked, monkeypatch):
    study = study_with(place, pairs=BY_RUN)
    card, folder = make_recipe(study, "pairs"), paths.recipe("mine", "pairs")
    assert len(asked) == 6 and asked[0].endswith(("/support", "/oppose"))
    table = pd.read_csv(folder / "yield.csv").set_index("topic")
    assert list(table) == ["asked", "answered", "kept", "share"]
    assert table.loc["all", ["asked", "kept"]].tolist() == [3, card["kept"]]
    assert card["asked"] == 3 and card["kept"] + sum(card["dropped"].values()) == 3
    assert sum(card["replies"].values()) == 6 and card["cost"] is None and card["judge"] is None
    assert card["kind"] == "pairs" and card["git_commit"]

    rows = rows_of()
    assert len(rows) == card["kept"] > 0
    assert list(rows[0]) == [*COLUMNS, *RUN_COLUMNS, "recipe", "recipe_version"]
    assert rows[0]["writer"] == "tiny-llama/base/seed-0" and rows[0]["writer_step"] == 0
    assert all(row["chosen"].strip() != row["rejected"].strip() for row in rows)
    how = {"data": str(folder / paths.RECIPE_DATA), "steps": 1, "save_every": 1}
    read = sets.READERS[card["kind"]](PreferenceSettings(**how, learning_rate=1e-3), 0)
    assert read["chosen"][0][0]["content"] == rows[0]["chosen"]

    text = (folder / paths.RECIPE_DATA).read_bytes()
    monkeypatch.setattr(loading, "for_inference", lambda *what: pytest.fail("was loaded again"))
    make_recipe(study, "pairs")
    assert len(asked) == 6 and (folder / paths.RECIPE_DATA).read_bytes() == text
    assert files.read_json(folder / "card.json")["kept"] == len(rows)


def test_more_prompts_ask_the_new_ones_and_other_sampling_asks_all(place, asked):
    make_recipe(study_with(place, pairs=BY_RUN), "pairs")
    before = {row["id"]: row["chosen"] for row in rows_of()}
    make_recipe(study_with(place, pairs=BY_RUN | {"size": 5}), "pairs")
    assert len(asked) == 10 and len(set(asked)) == 10
    assert before.items() <= {row["id"]: row["chosen"] for row in rows_of()}.items()
    make_recipe(study_with(place, pairs=BY_RUN | {"seed": 1}), "pairs")
    assert len(asked) == 16
    assert before != {row["id"]: row["chosen"] for row in rows_of()}


def test_a_killed_process_loses_no_reply_and_repeats_none(place, asked):
    entry = BY_RUN | {"size": 12, "max_new_tokens": 40, "batch_size": 1}
    study = study_with(place, pairs=entry, whole=entry)
    code = (
        "from vd.study.load import load_study; from vd.recipes.make import make_recipe\n"
        "make_recipe(load_study('mine'), 'pairs')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=paths.ROOT)
    kept = paths.recipe("mine", "pairs") / "replies.parquet"

    def written():  # read at once: a path is opened twice, and the file is replaced meanwhile
        return pd.read_parquet(io.BytesIO(kept.read_bytes()))

    while not kept.exists() or len(written()) < 3:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = pd.read_parquet(kept)
    assert 3 <= len(before) < 24 and not (kept.parent / paths.RECIPE_DATA).exists()
    make_recipe(study, "pairs")
    assert not set(asked) & set(before["prompt_id"]) and len(asked) == 24 - len(before)
    assert pd.read_parquet(kept).head(len(before)).equals(before)
    make_recipe(study, "whole")  # never interrupted
    assert rows_of("pairs") == rows_of("whole")


def test_a_run_that_is_not_trained_is_named_and_a_checkpoint_is_the_last_one(place, asked):
    study = study_with(place, pairs=BY_RUN | {"writer": "sft-support"})
    with pytest.raises(FileNotFoundError, match=r"sft-support/seed-0/checkpoints: .*train the run"):
        make_recipe(study, "pairs")
    run = study.run("tiny-llama/sft-support/seed-0")
    trained = loading.for_training(run.model_settings, Lora(), None, seed=0)
    for step in (2, 10):  # ten comes after two, whatever their names' order
        trained.save_pretrained(paths.checkpoint("mine", run.id, step))
    assert make_recipe(study, "pairs")["written_by"]["writer_step"] == 10
    for name, weight in trained.named_parameters():
        weight.data += 0.5 if "lora" in name else 0.0
    trained.save_pretrained(paths.checkpoint("mine", run.id, 10))
    before = rows_of()
    make_recipe(study, "pairs")
    assert len(asked) == 12 and rows_of() != before, "other weights write anew"


def test_mistakes_are_told_before_any_work(place):
    study = study_with(place)

    def wrong(**entries):
        found = study.model_copy(update={"recipes": entries})
        return [f"{key}: {said}" for key, said in recipes.mistakes(found)]

    assert wrong(a=BY_RUN) == wrong(a=BY_RUN | {"writer": {"model": "m"}}) == []
    for change, said in (
        (
            {"recipe": "magic"},
            "recipes.a.recipe: no recipe 'magic'; write one of ai_preferences, critique_revise, synthetic_pairs",
        ),
        ({"writer": "nobody"}, "recipes.a.writer: no run 'nobody' writes texts; write one of base"),
        ({"writer": {"model": "m", "price": 1}}, "recipes.a.writer.price: unknown key"),
        ({"prompts": "nothing"}, "recipes.a.prompts: no data set 'nothing'"),
        ({"sizes": 3}, "recipes.a.sizes: unknown key"),
    ):
        assert said in "\n".join(wrong(a=BY_RUN | change))
    with pytest.raises(StudyError, match=r"mine.yaml: recipes.b: no such recipe; it has none"):
        make_recipe(study, "b")
    entry = study.preference["dpo-support"] | {"data": "a"}
    study = study.model_copy(update={"preference": study.preference | {"dpo-support": entry}})
    circle = wrong(a=BY_RUN | {"writer": "sft-support/dpo-support"})
    assert circle == [
        "recipes.a.writer: it is trained on 'a', or on what others make of it; "
        "name a run that is there before"
    ]


def test_probes_are_no_prompts_and_there_are_as_many_as_asked_for(place):
    with pytest.raises(
        ValueError, match=r"recipes.pairs.prompts: 3 prompts of 'probes' are probes"
    ):
        make_recipe(study_with(place, pairs=BY_RUN | {"prompts": "probes"}), "pairs")
    with pytest.raises(ValueError, match=r"recipes.pairs.size: 999 asked for, 'value_gap' has 220"):
        make_recipe(study_with(place, pairs=BY_RUN | {"size": 999}), "pairs")


# a server as writer


@pytest.fixture
def server(server):
    """A server that takes the side asked for, and a cache of its own."""
    server.plan = {}

    def fault(number, request):
        text = request["messages"][0]["content"]
        side = "I agree" if "affirms" in text else "I disagree"
        return server.plan.get(number) or ("reply", f"{side} {abs(hash(text))}.", "stop")

    server.fault = fault
    return server


def by_server(server, **changed):
    """An entry whose writer is the server."""
    writer = {"model": "writer", "base_url": server.url, "max_in_flight": 1, "retries": 0}
    return {
        "recipe": "synthetic_pairs",
        "writer": writer | changed,
        "size": 4,
        "judge": False,
        "max_new_tokens": 77,
        "seed": 5,
    }


def test_a_server_is_paid_once_by_all_studies(place, server):
    entry = by_server(server, temperature=0.3, top_p=0.9, price_in=2.0, price_out=10.0)
    card = make_recipe(study_with(place, pairs=entry), "pairs")
    assert len(server.requests) == 8 and card["kept"] == 4 and card["replies"] == {"whole": 8}
    sampled = {"temperature": 0.3, "top_p": 0.9, "max_tokens": 77, "seed": 5, "model": "writer"}
    assert all(request.items() >= sampled.items() for request in server.requests)
    dollars = 8 * (100 * 2.0 + 1 * 10.0) / 1e6
    assert card["cost"]["dollars"] == pytest.approx(dollars)
    assert card["cost"]["dollars_per_kept_row"] == pytest.approx(dollars / 4)
    row = rows_of()[0]
    assert row["writer"] == "writer" and row["writer_step"] is None and row["top_p"] == 0.9
    assert row["chosen"].startswith("I agree") and row["rejected"].startswith("I disagree")

    study = study_with(place, pairs=entry, again=by_server(server, temperature=0.3, top_p=0.9))
    before = rows_of()
    make_recipe(study, "pairs")
    make_recipe(study, "again")
    assert len(server.requests) == 8 and before == rows_of("pairs") == rows_of("again")
    make_recipe(study_with(place, pairs=entry | {"size": 5}), "pairs")
    assert len(server.requests) == 10
    for file in place.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes()


def test_an_interruption_or_a_spent_budget_costs_nothing_twice(place, server):
    server.plan = {number: 500 for number in range(4, 99)}
    with pytest.raises(client.ServerError, match="run again to go on"):
        make_recipe(study_with(place, pairs=by_server(server)), "pairs")
    server.plan, before = {}, len(server.requests)
    with pytest.raises(BudgetError, match="budget_calls"):
        make_recipe(study_with(place, pairs=by_server(server, budget_calls=5)), "pairs")
    card = make_recipe(study_with(place, pairs=by_server(server)), "pairs")
    assert len(server.requests) - before == 5 and card["kept"] == 4


def test_a_request_that_is_refused_is_a_reason_and_no_end(place, server):
    server.plan = {3: 400}
    card = make_recipe(study_with(place, pairs=by_server(server, sends_seed=False)), "pairs")
    assert card["replies"] == {"whole": 7, "rejected": 1}
    assert card["dropped"] == {"a rejected request": 1} and card["kept"] == 3
    assert card["cost"]["dollars"] is None, "what it cost is not known"
    assert "seed" not in server.requests[0] and rows_of()[0]["seed"] is None


def test_a_judge_drops_what_takes_another_side_and_every_drop_is_counted(
    place, server, monkeypatch
):
    class Judge:
        name = "first words"

        def score(self, responses):
            support = responses["response"].str.startswith("I agree").astype(float)
            oppose = responses["response"].str.startswith("I disagree").astype(float)
            neutral = 1 - support - oppose
            scored = pd.DataFrame({"p_support": support, "p_neutral": neutral, "p_oppose": oppose})
            return scored.assign(label=scored.idxmax(axis=1).str.removeprefix("p_"))

    monkeypatch.setattr(make, "load_judge", lambda settings: Judge())
    server.plan = {1: ("reply", "Who knows?", "stop"), 2: ("reply", "I agree but", "length")}
    entry = by_server(server) | {"judge": True}
    card = make_recipe(study_with(place, pairs=entry), "pairs")
    assert card["dropped"] == {"another stance": 1, "a cut reply": 1}
    assert card["judge"] == "first words" and card["answered"] == 3 and card["kept"] == 2
    tried = pd.read_parquet(paths.recipe("mine", "pairs") / "tried.parquet")
    assert tried["chosen_label"][0] == "neutral" and tried["rejected_p_oppose"][2] == 1
    make_recipe(study_with(place, pairs=entry | {"judge": False}), "pairs")
    assert len(rows_of()) == 4 and len(server.requests) == 8


def test_the_notebook_makes_the_data_set_and_asks_once(place, server):
    study_with(place, pairs=by_server(server, price_in=1.0))
    notebook, told = paths.notebook("A2_recipe"), {"STUDY": "mine", "RECIPE": "pairs"}
    for _ in range(2):
        book = papermill.execute_notebook(notebook, None, told, kernel_name="python3")
    assert len(server.requests) == 8 and len(rows_of()) == 4
    said = "".join(o.get("text", "") for c in book.cells for o in c.get("outputs", []))
    assert "4 rows of kind pairs" in said and "dollars_per_kept_row 0.0002" in said
    assert "kept: Should" in said and KEY not in said
