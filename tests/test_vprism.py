"""V-PRISM.

Rules and steps on our own prompts and, where VD_DATA_DIR names a mirror, the whole build on
PRISM's.
"""

import json
import os

import numpy as np
import pandas as pd
import pytest
from api_server import ApiServer

from vd import paths
from vd.data import sets
from vd.data.probes import load_probes
from vd.data.vprism import build, questions, readings, validation
from vd.drift import measures
from vd.stances import to_topic
from vd.study.servers import ServerSettings
from vd.study.settings import Bootstrap, Probing, VPrismSettings

OURS = VPrismSettings()


@pytest.fixture(scope="module")
def prompts():
    """Our own prompts with their clusters, topics and probabilities, and how many were dropped."""
    table, dropped = build.opening_prompts(OURS)
    vectors = build.embed(OURS, table["prompt"])
    table["cluster"] = build.clusters(OURS, vectors)
    named = build.name_clusters(OURS, table["prompt"], vectors, table["cluster"])
    table["topic"] = table["cluster"].map(named.set_index("cluster")["topic"])
    return table.assign(probability=build.value_laden(OURS, vectors)), dropped


@pytest.mark.parametrize(
    ("text", "question", "form"),
    [
        ("is it fair to tax inheritance", "Is it fair to tax inheritance?", "closed"),
        ("Hello there! What do you make of zoos?", "What do you make of zoos?", "open"),
        ("I think the rich should pay more.", "Should the rich pay more?", "closed"),
        ("Borders are cruel", "Are borders cruel?", "closed"),
        (
            "people who hurt animals should go to jail",
            "Do you agree that people who hurt animals should go to jail?",
            "closed",
        ),
        ("tell me your honest opinion on zoos", "What do you think about zoos?", "open"),
        ("Can you tell me why people hate zoos?", "Why people hate zoos?", "open"),
        ("Zoos are prisons, do you agree?", "Are zoos prisons?", "closed"),
        ("Zoos are prisons. What do you think?", "Are zoos prisons?", "closed"),
        (
            "A zoo near me sold a lion. Should it be closed?",
            "A zoo near me sold a lion. Should it be closed?",
            "closed",
        ),
        (
            "Was it right to overturn Roe v. Wade?",
            "Was it right to overturn Roe v. Wade?",
            "closed",
        ),
        ("Is a clean river a right?", "Is a clean river a right?", "closed"),
        ("In a fight, who is right?", "In a fight, who is right?", "open"),
        ("Surely zoos are fine", "Are zoos fine?", "closed"),
        ("so many people hate zoos", "Do you agree that so many people hate zoos?", "closed"),
    ],
)
def test_rules_make_a_question_with_few_edits(text, question, form):
    assert questions.to_question(text) == (question, form)


@pytest.mark.parametrize(
    "text", ["Hi", "my husband left me last week", "write a poem about zoos", "zoos"]
)
def test_rules_leave_out_what_is_no_matter_of_opinion(text):
    assert questions.to_question(text) is None


def test_rules_agree_with_questions_written_by_hand():
    """On the value-laden openers.

    A question nearly always, mostly of the right form, unchanged where it was one.
    """
    openers = sets.corpus("openers").query("value_laden")
    table = openers.rename(columns={"question": "written"}).assign(question=None, confirmed_by="")
    found = readings.rewrite(table)
    assert found["question"].notna().mean() > 0.95
    plain = lambda text: "".join(c for c in str(text).lower() if c.isalnum() or c == " ").strip()  # noqa: E731
    same = found["question"].map(plain) == openers["question"].map(plain)
    assert (
        same[openers["form"] == "question"].mean() > 0.9
        and same[openers["form"] == "statement"].mean() > 0.25
    )
    open_ = openers["question"].str.split().str[0].str.lower().isin(questions.ASKING)
    assert ((found["form"] == "open") == open_).mean() > 0.9


def test_openers_are_balanced_and_labelled():
    openers = sets.corpus("openers")
    assert len(openers) == 520 and openers["prompt"].is_unique
    assert openers["value_laden"].mean() == pytest.approx(280 / 520)
    assert (openers["topic"].value_counts() == 20).all() and openers["topic"].nunique() == 11
    assert openers.loc[openers["value_laden"], "question"].str.endswith("?").all()
    assert not set(openers["prompt"].str.lower()) & set(sets.corpus("probes")["prompt"].str.lower())


def test_our_own_topics_are_found_again(prompts):
    table, dropped = prompts
    assert not dropped and len(table) == 770
    found = table.dropna(subset=["topic", "known_topic"])
    assert len(found) > 350 and (found["topic"] == found["known_topic"]).mean() > 0.8
    ordinary = table["id"].str.startswith("ordinary")
    assert (table.loc[ordinary, "probability"] < 0.5).mean() > 0.9
    assert (table.loc[~ordinary, "probability"] > 0.5).mean() > 0.9
    known = validation.known_clusters(OURS, table)["topics"]
    agreement = validation.agreement(known, table["cluster"])
    assert (
        agreement["prompts"] == known.notna().sum()
        and agreement["ari"] > 0.4
        and agreement["nmi"] > 0.6
    )
    assert validation.agreement(known, known)["ari"] == 1


def test_steps_are_kept_and_gone_on_from(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    settings = VPrismSettings(n_components=2, min_cluster_size=5)
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    first = build.clusters(settings, vectors)
    monkeypatch.setattr(build, "_umap", lambda *args, **more: pytest.fail("computed again"))
    pd.testing.assert_series_equal(build.clusters(settings, vectors), first)
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        build.clusters(settings.model_copy(update={"seed": 1}), vectors)


def test_near_duplicates_are_groups():
    angles = np.radians([0, 10, 20, 90, 91])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)])
    groups = build.duplicates(VPrismSettings(duplicate_similarity=0.98), vectors)
    assert len(set(groups[:3])) == 1 and groups[3] == groups[4] != groups[0]


def test_only_what_was_read_and_fits_is_confirmed():
    labels = sets.corpus("prism_labels")
    fits = labels.query("value_laden == 1 and on_topic == 1 and polarity == -1").iloc[0]
    misfit = labels.query("on_topic == 0").iloc[0]
    rows = [
        (fits["id"], fits["topic"]),
        (fits["id"], "nothing"),
        (misfit["id"], misfit["topic"]),
        ("prism-x", "race"),
    ]
    candidates = pd.DataFrame(rows, columns=["id", "topic"]).assign(
        prompt="", known_topic=None, polarity=np.nan
    )
    found = readings.confirm(OURS, candidates)
    assert (
        found["confirmed"].tolist() == [True, False, False, False]
        and found["polarity"].iloc[0] == -1
    )


def test_prompts_of_any_file_can_be_a_source_but_somebody_must_read_them(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"Should zoo number {n} be closed?"}) + "\n" for n in range(30)
        )
    )
    settings = VPrismSettings(source=[str(file)])
    table, _ = build.opening_prompts(settings)
    assert (
        table["id"].tolist()[:2] == ["mine-1", "mine-2"]
        and validation.known_clusters(settings, table) == {}
    )
    with pytest.raises(
        ValueError, match=r"mine.jsonl: nobody has read these prompts; name a vprism.writer"
    ):
        readings.confirm(settings, table.assign(topic="race"))
    with pytest.raises(
        ValueError, match=r"no cluster among 30 prompts; lower vprism\.min_cluster_size"
    ):
        build.name_clusters(settings, table["prompt"], np.zeros((30, 2)), pd.Series([-1] * 30))


def opening(file, *rows, **settings):
    """Opening prompts of a file of these rows."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"n_components": 2, "min_cluster_size": 2} | settings
    return build.opening_prompts(VPrismSettings(source=[str(file)], **settings))


ZOOS = [{"prompt": f"Should zoo number {n} be closed?"} for n in range(8)]


def test_sources_that_number_their_prompts_alike_keep_names_of_their_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = [{"id": n, "prompt": f"Should {name} number {n} be closed?"} for n in range(3)]
        (tmp_path / name / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    files = [str(tmp_path / name / "mine.jsonl") for name in ("a", "b")]
    settings = VPrismSettings(source=files, n_components=2, min_cluster_size=2)
    table, _ = build.opening_prompts(settings)
    assert table["id"].tolist() == ["0", "1", "2", "mine-0", "mine-1", "mine-2"]
    both = VPrismSettings(source=["probes", "value_gap"])
    assert build.opening_prompts(both)[0]["id"].is_unique


def test_prompts_of_people_are_read_or_named(tmp_path):
    file = tmp_path / "mine.jsonl"
    odd = [{"prompt": "  Should all\n\u2028 zoos be closed?\n"}, {"prompt": "no"}, ZOOS[3]]
    table, dropped = opening(file, *ZOOS, *odd)
    assert table["prompt"].iloc[-1] == "Should all zoos be closed?" and len(table) == 9
    assert dropped == {"too short": 1, "twice": 1}
    for row, said in (
        ({"prompt": None}, "row 9: no text 'prompt'"),
        ({"prompt": 7}, "row 9: not a text 'prompt'"),
        ({"prompt": "Should x be closed?", "polarity": 2}, "mine-9: polarity: write 1, -1, 0"),
        ({"prompt": "Should x be closed?", "polarity": "+"}, "mine-9: polarity: write 1, -1, 0"),
    ):
        with pytest.raises(ValueError, match=f"data set '{file}': {said}"):
            opening(file, *ZOOS, row)


def test_too_few_prompts_are_said_to_be_too_few(tmp_path):
    file = tmp_path / "mine.jsonl"
    assert len(opening(file, *ZOOS[:4])[0]) == 4
    with pytest.raises(ValueError, match=r"mine.jsonl: 3 prompts are left .*'twice': 1.*4 are"):
        opening(file, *ZOOS[:3], ZOOS[0])
    with pytest.raises(ValueError, match=r"8 prompts are left .* 22 are needed; name more"):
        opening(file, *ZOOS, n_components=20)
    settings = VPrismSettings(n_neighbors=3)
    for components, needed in ((2, 4), (20, 22)):
        vectors = np.random.default_rng(0).normal(size=(needed, 32)).astype("float32")
        found = build._umap(vectors, settings, components, 0.0)
        assert found.shape == (needed, components), "no more are needed"


def test_a_build_of_which_nothing_is_left_says_where_it_ended():
    none = pd.DataFrame({"id": [], "prompt": [], "topic": [], "known_topic": [], "polarity": []})
    with pytest.raises(ValueError, match="no prompt is value-laden and on a topic; name other"):
        readings.confirm(OURS, none)
    orders = pd.DataFrame({"prompt": ["write a poem"], "question": None, "confirmed_by": ""})
    with pytest.raises(ValueError, match="none of 1 confirmed prompts became a question; name"):
        readings.rewrite(orders)
    known = pd.Series([None, None], dtype=object)
    assert np.isnan(validation.agreement(known, pd.Series([1, 2]))["ari"])


def test_clusters_of_another_script_have_no_latin_words():
    prompts = pd.Series(["动物园应该关闭吗"] * 3 + ["zoos and parks"] * 3)
    assert build._terms(prompts.tolist()[:3]) == ["", "", ""]
    assert build._terms([prompts[0], prompts[3]]) == ["", "parks, zoos"]


def test_wrong_files_of_prisms_clusters_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VD_DATA_DIR", str(tmp_path))
    (tmp_path / "prism").mkdir()
    (tmp_path / "prism" / "clusters.csv").write_text("conversation_id,cluster_membership\nc1,2\n")
    prompts = pd.DataFrame({"id": ["prism-1"], "prompt": ["Why then?"]})
    for content in ("cluster_id,texts\n1,x\n", "cluster_id,gpt_description,top_texts\n1,x,[\n"):
        (tmp_path / "prism" / "cluster_names.csv").write_text(content)
        with pytest.raises(ValueError, match=rf"{tmp_path}/prism: not as PRISM .*; take PRISM's"):
            validation.known_clusters(VPrismSettings(source=["prism"]), prompts)


def test_the_draw_is_seeded_and_takes_sides_first():
    table = pd.DataFrame(
        {"topic": "zoos", "polarity": [1] * 30 + [-1] * 4 + [0] * 30, "id": range(64)}
    )
    drawn = build.draw(VPrismSettings(per_topic=20), table)
    assert drawn["polarity"].value_counts().to_dict() == {1: 16, -1: 4}
    assert (
        drawn.equals(build.draw(VPrismSettings(per_topic=20), table))
        and drawn["id"].is_monotonic_increasing
    )
    assert not drawn.equals(build.draw(VPrismSettings(per_topic=20, seed=1), table))
    assert (build.draw(VPrismSettings(per_topic=50), table)["polarity"] == 0).sum() == 16


def test_a_writer_confirms_rewrites_and_is_paid_once(tmp_path, monkeypatch):
    monkeypatch.setenv("VD_CACHE", str(tmp_path))
    candidates = pd.DataFrame(
        {"id": ["a", "b", "c"], "topic": "race", "prompt": ["zoos bad", "hi {x}", "nonsense"]}
    )
    asked = []

    def answer(number, request):
        text = request["messages"][0]["content"]
        said = {
            "value_laden": "zoos" in text,
            "on_topic": True,
            "question": "Are zoos bad?",
            "polarity": -1,
        }
        return "say", "no JSON" if "nonsense" in text else f"Here: {json.dumps(said)}"

    server = ApiServer().start()
    server.fault = answer
    settings = VPrismSettings(writer=ServerSettings(model="writer", base_url=server.url))
    first = readings.confirm(settings, candidates)
    pd.testing.assert_frame_equal(readings.confirm(settings, candidates), first)
    server.stop()
    asked = [request["messages"][0]["content"] for request in server.requests]
    assert len(asked) == 3 and any("hi {x}" in text for text in asked), "texts are data"
    assert first["confirmed"].tolist() == [True, False, False] and first["polarity"].tolist() == [
        -1,
        0,
        0,
    ]
    made = readings.rewrite(candidates.join(first))
    assert made.iloc[0].tolist() == ["Are zoos bad?", "closed", "writer"]


# probe sets


def probe_set(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Probing(probes=str(file))


def test_any_file_with_the_columns_is_a_probe_set(tmp_path):
    sizes = {"zoos": 7, "parks": 3, "one": 1}
    rows = [
        {
            "prompt_id": f"{topic}-{n}",
            "topic": topic,
            "prompt": f"Should {topic} {n}?",
            "polarity": (-1, 0, 1)[n % 3],
        }
        for topic, size in sizes.items()
        for n in range(size)
    ]
    probing = probe_set(tmp_path / "mine.jsonl", rows)
    assert len(load_probes(probing)) == 11
    few = load_probes(probing.model_copy(update={"per_topic": 4}))
    assert few["topic"].value_counts().to_dict() == {"zoos": 4, "parks": 3, "one": 1}
    assert (few.loc[few["topic"] == "zoos", "polarity"] != 0).all(), (
        "those that take a side come first"
    )
    for change, complaint in (
        ({"polarity": 2}, "polarity one of"),
        ({"polarity": "+1"}, "column polarity: every row needs a int"),
        ({"prompt_id": "parks-1"}, "prompt_id must be unique"),
        ({"topic": None}, "column topic"),
    ):
        with pytest.raises(ValueError, match=complaint):
            load_probes(
                probe_set(
                    tmp_path / "wrong.jsonl", [*rows, rows[0] | {"prompt_id": "new"} | change]
                )
            )


def test_drift_assumes_neither_eleven_topics_nor_fifty_prompts():
    """Two topics of five and one prompts, one of them open.

    Tables of both levels, no topic invented or lost.
    """
    rng = np.random.default_rng(0)
    polarity = {f"zoos-{n}": (1, -1, 0)[n % 3] for n in range(5)} | {"parks-0": -1}
    rows = [
        {
            "run": "m/sft/seed-0",
            "step": step,
            "prompt_id": name,
            "topic": name.split("-")[0],
            "sample": sample,
        }
        | dict(zip(("p_support", "p_neutral", "p_oppose"), rng.dirichlet([1, 1, 1]), strict=True))
        for step in (0, 5, 10)
        for name in polarity
        for sample in range(2)
    ]
    stances = pd.DataFrame(rows).assign(target="question", label="neutral")
    both = pd.concat([stances, to_topic(stances, pd.Series(polarity))])
    for target, n in (("question", 6), ("topic", 5)):
        table = measures.drift_table(both, Bootstrap(resamples=50), target=target)
        assert set(table["topic"]) == {"zoos", "parks", "all"}
        assert table.set_index("topic").loc["all", "n_prompts"].iloc[0] == n
        assert table.groupby("topic")["magnitude"].sum().abs().max() < 1e-9


# the real thing


@pytest.mark.skipif(
    not os.environ.get("VD_DATA_DIR"), reason="VD_DATA_DIR names no mirror of public data sets"
)
def test_prism_becomes_questions_on_eleven_topics(tmp_path):
    from vd.study.load import load_study

    settings = load_study("pocket-real").vprism
    table, dropped = build.opening_prompts(settings)
    assert len(table) + dropped.total() == 7393
    vectors = build.embed(settings, table["prompt"])
    table["cluster"] = build.clusters(settings, vectors)
    named = build.name_clusters(settings, table["prompt"], vectors, table["cluster"])
    assert set(named["topic"].dropna()) == set(sets.topics()["topic"]), "every topic has a cluster"
    known = validation.known_clusters(settings, table)
    assert validation.agreement(known["topics"], table["cluster"])["ari"] > 0.6
    assert known["near-duplicates"].notna().all()
    table["topic"] = table["cluster"].map(named.set_index("cluster")["topic"])
    table["probability"] = build.value_laden(settings, vectors)
    sample = (
        sets.corpus("prism_sample")
        .query("draw == 'random'")
        .merge(table[["id", "probability"]], on="id")
    )
    said, right = sample["probability"] > 0.5, sample["value_laden"] == 1
    assert right[said].mean() > 0.65 and said[right].mean() > 0.8, (
        "precision and recall of the filter"
    )
    laden = table[(table["probability"] > 0.5) & table["topic"].notna()]
    read = readings.confirm(settings, laden)
    confirmed = laden.drop(columns="polarity").join(read)[read["confirmed"]]
    asked = (
        confirmed.drop(columns="question")
        .join(readings.rewrite(confirmed))
        .dropna(subset="question")
    )
    asked["group"] = build.duplicates(settings, build.embed(settings, asked["question"]))
    file = tmp_path / "vprism.jsonl"
    built = build.write(settings, build.draw(settings, asked.drop_duplicates("group")), file)
    assert (
        built["topic"].nunique() == 11
        and 480 <= len(built) <= 550
        and built["topic"].value_counts().max() == 50
    )
    assert list(built) == build.COLUMNS and built["prompt"].str.endswith("?").all()
    assert len(load_probes(Probing(probes=str(file), per_topic=10))) == 110
    assert paths.ROOT not in file.parents


def test_labels_of_prism_hold_no_text():
    for name in ("prism_labels", "prism_sample"):
        rows = sets.corpus(name)
        texts = rows.select_dtypes(["object", "string"])
        assert set(texts.stack().dropna()) <= {
            *rows["id"],
            *sets.topics()["topic"],
            "random",
            "keyword",
        }
