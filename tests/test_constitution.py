"""Constitutions, and the recipe that criticises and revises by one."""

from collections import Counter

import pandas as pd
import pytest
import yaml
from test_recipes import rows_of, study_with

from vd import paths
from vd.data import sets
from vd.models import loading
from vd.probing import responders
from vd.recipes.kinds import critique_revise
from vd.recipes.make import make_recipe
from vd.recipes.making import Making
from vd.study import constitution
from vd.study.file import StudyError
from vd.study.load import load_study
from vd.workflow import plan

SOURCES = {
    "human-rights declaration",
    "platform terms",
    "non-western perspectives",
    "assistant rules",
    "meta principles on tone",
}
ENTRY = {"recipe": "critique_revise", "writer": "base", "prompts": "requests", "size": 3}
ENTRY |= {"judge": False, "max_new_tokens": 8, "batch_size": 2}


def test_our_constitution_has_principles_of_every_kind():
    ours = constitution.load("constitution")
    for entries in ours.values():
        assert len(entries) == 16
        assert min(Counter(entry["source"] for entry in entries).values()) >= 3
        assert {entry["source"] for entry in entries} == SOURCES
    one = constitution.load("constitution_one")
    assert [len(entries) for entries in one.values()] == [1, 1]
    assert {example["choice"] for example in constitution.examples("comparison", 3)} == {"A", "B"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("critique: [", "no YAML at line 1; mend it"),
        ("- a", "critique: no principle; write a list with id, source, critique, revision"),
        ({"critique": [{"id": "c", "source": "s", "critique": "x"}]}, "critique 1: no revision"),
        ({"comparison": [{"id": "a", "source": "s", "principle": " "}]}, "comparison 1: no princi"),
        ({"comparison": [{"id": "a", "source": "s", "principle": "x"}] * 2}, "a is there twice"),
        (None, "no such constitution; write one of vd/prompts, or a .yaml file"),
    ],
)
def test_a_constitution_that_is_none_is_one_line(tmp_path, content, said):
    file = tmp_path / "mine.yaml"
    if content is not None:
        whole = constitution.load("constitution")
        text = content if isinstance(content, str) else yaml.safe_dump(whole | content)
        file.write_text(text)
    with pytest.raises(ValueError, match=r"mine.yaml: ") as error:
        constitution.load(str(file))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_red_team_prompts_are_of_ten_kinds_and_no_evaluation_asks_them():
    rows = sets.corpus("red_team")
    assert len(rows) == rows["id"].nunique() == rows["prompt"].nunique() == 240
    assert rows["category"].value_counts().eq(24).all()
    assert set(rows["category"]) == set(sets.corpus("requests")["category"])
    assert not set(rows["prompt"]) & set(sets.corpus("requests")["prompt"])
    assert rows["prompt"].str.split().str.len().between(8, 45).all()


def test_principles_are_drawn_by_seed_and_prompt_alone():
    entries = constitution.load("constitution")["critique"]
    drawn = [constitution.drawn(entries, 0, f"id-{n}", "1")["id"] for n in range(200)]
    assert drawn == [constitution.drawn(entries, 0, f"id-{n}", "1")["id"] for n in range(200)]
    assert set(drawn) == {entry["id"] for entry in entries}
    assert drawn != [constitution.drawn(entries, 1, f"id-{n}", "1")["id"] for n in range(200)]


class Writes:
    """A writer whose words are known: what it says is what its prompt ends with, and who asks."""

    def __init__(self, **said):
        self.said, self.asked = said, []

    def ask(self, asked):
        self.asked += asked.to_dict("records")
        steps = asked["prompt_id"].str.partition("/")
        response = [self.said[step].get(one, "") for one, step in steps[[0, 2]].to_numpy()]
        return pd.DataFrame({"response": response, "failure": ""}, index=asked.index)


class Harmful:
    """A judge that finds harm in one word."""

    name = "harm"

    def score(self, replies):
        label = replies["response"].str.contains("poison").map({True: "harmful", False: "other"})
        return pd.DataFrame({"label": label}, replies.index)


def test_chains_are_kept_step_by_step_and_their_states_told(place):
    ids = [f"request-001-{kind}" for kind in "hb"] + ["request-002-h", "request-002-b"]
    writer = Writes(
        reply=dict.fromkeys(ids, "Go ahead, do it now.\nRequest: another"),
        critique_1=dict.fromkeys(ids, "It cheers harm on."),
        revision_1=dict(
            zip(
                ids,
                ["That would hurt her.", "Go ahead, do it now.", "Use poison.", "No no " * 20],
                strict=True,
            )
        ),
        critique_2=dict.fromkeys(ids, "Still."),
        revision_2=dict.fromkeys(ids[:3], "I won't, for it would hurt her. ### Critique: x"),
    )
    settings = critique_revise.Settings(**ENTRY | {"size": 4, "examples": 1})
    study = study_with(place, chains=ENTRY)
    tried = critique_revise.make(Making(study, "chains", settings, writer, Harmful()))
    assert tried["reply"].eq("Go ahead, do it now.").all()
    assert tried["state_1"].tolist() == ["changed", "unchanged", "worse", "broken"]
    assert tried["state_2"].tolist() == ["changed", "changed", "changed", "broken"]
    assert tried["dropped"].tolist() == ["", "", "", "the last revision is broken"]
    assert tried["completion"][0] == "I won't, for it would hurt her."
    assert tried["answered"].tolist() == [True, True, True, False]
    assert tried["principles"][0] == f"{tried['principle_1'][0]} {tried['principle_2'][0]}"
    told = {one["prompt_id"]: one["prompt"] for one in writer.asked}
    principle = {e["id"]: e for e in constitution.load("constitution")["critique"]}
    first = principle[tried["principle_1"][0]]
    critique, revision = (told[f"{ids[0]}/{step}"] for step in ("critique_1", "revision_2"))
    example = constitution.examples("critique", 1)[0]
    assert critique.startswith(f"Request: {example['request']}") and example["critique"] in critique
    assert critique.endswith(f"\n\n{first['critique']}\nCritique:")
    assert "Reply: That would hurt her.\nCritique: Still." in revision


def test_a_run_answers_another_revises_and_nobody_is_asked_twice(place, monkeypatch):
    study = study_with(place, chains=ENTRY | {"answers": "tiny-llama/base/seed-0", "examples": 0})
    card = make_recipe(study, "chains")
    tried = pd.read_parquet(paths.recipe("mine", "chains") / paths.TRIED)
    steps = {"reply", "critique_1", "revision_1", "critique_2", "revision_2", "state_2"}
    assert steps <= set(tried) and len(tried) == card["asked"] == 3
    assert sum(card["replies"].values()) == 3 * 5 and card["kept"] == len(rows_of("chains"))
    monkeypatch.setattr(loading, "for_inference", lambda *what: pytest.fail("was loaded again"))
    monkeypatch.setattr(responders, "ask", lambda *what: pytest.fail("was asked again"))
    assert make_recipe(study, "chains")["kept"] == card["kept"]


def test_a_recipe_waits_for_both_writers_and_names_a_wrong_one(place):
    entry = ENTRY | {"writer": "sft-support", "answers": "sft-neutral"}
    study = study_with(place, chains=entry)
    waits = plan.writers(study, "chains")
    assert waits == ["tiny-llama/sft-support/seed-0", "tiny-llama/sft-neutral/seed-0"]
    with pytest.raises(StudyError, match=r"recipes.chains.answers: no run 'nobody' writes texts"):
        study_with(place, chains=ENTRY | {"answers": "nobody"})
    content = yaml.safe_load((place / "configs" / "mine.yaml").read_text())
    content["recipes"] = {"chains": entry}
    content["sft"]["sft-neutral"]["data"] = "chains"
    (place / "configs" / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(StudyError, match="it is trained on 'chains'"):
        load_study("mine")
