"""The space of values, what reads it, and the judge of consistency."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from vd import paths
from vd import values as space
from vd.data import reading, sets
from vd.evaluations.metrics import rewriting
from vd.evaluations.metrics import values as metric_of_values
from vd.models import cross_encoder
from vd.readers import consistency, trust, values, values_judge
from vd.study.settings import Bootstrap, ModelSettings, Probing
from vd.values import NAMES

TINY = {"source": "random:bert", "epochs": 1}


def points(**numbers):
    return np.array([[numbers.get(name, 0.0) for name in NAMES]])


def test_the_circle_is_schwartzs():
    circle = space.circle()
    assert (
        circle.shape == (10, 10) and np.allclose(np.diag(circle), 1) and (circle == circle.T).all()
    )
    opposite = {"self_direction": "security", "achievement": "benevolence", "hedonism": "tradition"}
    for one, other in opposite.items():
        row = circle[NAMES.index(one)]
        assert np.isclose(row[NAMES.index(other)], row.min())
    neighbour = circle[NAMES.index("power"), NAMES.index("achievement")]
    assert neighbour == pytest.approx(np.cos(np.pi / 5))


def test_targets_stay_in_the_cube_and_distances_are_euclidean():
    start, shift = points(power=0.8, security=-0.5), points(power=0.5, security=-0.25)
    target = space.moved(start, shift)
    assert (target == points(power=1.0, security=-0.75)).all()
    assert space.distance(start, target)[0] == pytest.approx(np.hypot(0.2, 0.25))
    assert space.cosine(start, target)[0] == pytest.approx(
        (0.8 + 0.375) / np.hypot(0.8, 0.5) / np.hypot(1, 0.75)
    )
    assert space.cosine(points(), target)[0] == 0  # nothing expressed agrees with nothing


def test_the_nearest_target_that_meets_a_preference():
    """Against an optimiser that knows nothing of circles, from starts at the edge of the cube."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        start, preference = rng.uniform(-1, 1, 10).round(), rng.uniform(-1, 1, 10)
        found = space.nearest(start, preference, reach=0.6)
        wanted = space.circle() @ preference
        wanted /= np.abs(wanted).sum()
        best = minimize(
            lambda v, start=start: ((v - start) ** 2).sum(),
            np.zeros(10),
            bounds=[(-1, 1)] * 10,
            constraints={"type": "ineq", "fun": lambda v, wanted=wanted: wanted @ v - 0.6},
            method="SLSQP",
        )
        assert wanted @ found == pytest.approx(0.6, abs=1e-6)
        assert np.linalg.norm(found - start) == pytest.approx(np.sqrt(best.fun), abs=1e-3)
    # who is there already stays, and opposite values give way
    assert (space.nearest(found, preference, reach=0.5) == found).all()
    caring = space.nearest(np.zeros(10), points(benevolence=1.0)[0])
    assert caring[NAMES.index("achievement")] == -caring[NAMES.index("benevolence")] < 0
    for preference, reach in ((points()[0], 0.5), (points(power=1.0)[0], 1.1)):
        with pytest.raises(ValueError, match=r"prefers nothing|write at most 1"):
            space.nearest(np.zeros(10), preference, reach)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (points(power=1.5), "row 1: power is 1.5; write a number from -1 to 1"),
        (points(tradition=np.nan), "row 1: tradition is nan"),
        (np.zeros((1, 9)), "(1, 9) in place of (N, 10)"),
    ],
)
def test_a_point_outside_the_cube_is_one_line(wrong, said):
    with pytest.raises(ValueError, match="target") as error:
        space.check(wrong, "target")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_corpora_of_values():
    texts = sets.corpus("values")
    labels, again = texts[list(NAMES)].to_numpy(), np.array(texts["again"].tolist())
    assert len(texts) >= 1500 and texts["text"].is_unique and texts["id"].is_unique
    for numbers in (labels, again):
        assert set(np.unique(numbers)) == {-1, -0.5, 0, 0.5, 1}
    assert ((labels > 0).sum(axis=0) >= 200).all() and ((labels < 0).sum(axis=0) >= 120).all()
    r = [np.corrcoef(labels[:, i], again[:, i])[0, 1] for i in range(10)]
    assert min(r) > 0.9, "two readings agree"
    # a contrast pair differs in one value alone
    for _, pair in texts.dropna(subset="group").groupby("group"):
        one, other = pair[list(NAMES)].to_numpy()
        assert (one != other).sum() == 1
    # labels lie on the circle as far as its theory goes: neighbours agree more than opposites
    found, expected = np.corrcoef(labels.T), space.circle()
    off = ~np.eye(10, dtype=bool)
    assert np.corrcoef(found[off], expected[off])[0, 1] > 0.4
    asked = sets.corpus("value_instructions")
    shifts = asked[list(NAMES)].to_numpy()
    assert len(asked) >= 600 and asked["instruction"].str.lower().is_unique
    assert ((shifts > 0).sum(axis=0) >= 30).all() and ((shifts < 0).sum(axis=0) >= 30).all()
    assert (shifts[asked["kind"] == "none"] == 0).all()


def test_corpora_of_consistency():
    rows = sets.corpus("entailment")
    assert rows["label"].value_counts().to_dict() == dict.fromkeys(consistency.LABELS, 220)
    checked = sets.corpus("rewrites_checked")
    ways = {
        "kept": (True, True),
        "dropped": (True, False),
        "invented": (False, True),
        "contradicted": (False, False),
    }
    assert checked["kind"].value_counts().to_dict() == dict.fromkeys(ways, 50)
    for kind, own in checked.groupby("kind"):
        assert set(zip(own["forward"], own["backward"], strict=True)) == {ways[kind]}


def test_groups_are_whole_and_halves_share_nothing():
    parts = values.split("detector")
    groups = {n: set(rows["group"].fillna(rows["id"])) for n, rows in parts.items()}
    assert not (groups["learnt"] & groups["other"] | groups["learnt"] & groups["held_out"])
    assert sum(map(len, parts.values())) == len(sets.corpus("values"))
    assert abs(len(groups["learnt"]) - len(groups["other"])) <= 1
    parts = values.split("translator")
    assert parts["other"].empty and len(parts["held_out"]) > 100


@pytest.fixture
def tiny_reader(place):
    return values.load(values.ValueReaderSettings(**TINY))


def test_a_reader_gives_ten_numbers_and_nothing_for_nothing(tiny_reader):
    texts = pd.Series(["Take the risk.", "", "  ", "word " * 4000], index=[3, 1, 4, 2])
    read = tiny_reader.read(texts)
    assert read.shape == (4, 10) and (np.abs(read) < 1).all()
    assert (read[1:3] == 0).all() and (read[[0, 3]] != 0).all()


def test_a_reader_learns_numbers(place, monkeypatch):
    """Of two texts with opposite points it tells which is which."""
    texts = pd.DataFrame({"text": ["danger and thrills", "calm and order"] * 40})
    numbers = np.where(np.arange(80)[:, None] % 2, -1.0, 1.0) * points(stimulation=1, security=-1)
    rows = texts.assign(group=None, id=range(80), **dict(zip(NAMES, numbers.T, strict=True)))
    monkeypatch.setattr(values, "split", lambda reads: {"learnt": rows})
    settings = values.ValueReaderSettings(source="random:bert", epochs=6, learning_rate=3e-3)
    one, other = values.load(settings).read(texts["text"].head(2))
    place = NAMES.index("stimulation")
    assert one[place] > 0.7 and other[place] < -0.7 and abs(one[0]) < 0.2


def test_trust_counts_what_was_read():
    labels = np.zeros((4, 10))
    labels[:, 0] = 1, -0.5, 0, 0
    read = np.zeros((4, 10))
    read[:, 0] = 0.8, 0.3, 0.5, 0.1  # right, wrong sign, told though not there, rightly nothing
    labels[:, 1:] = read[:, 1:] = np.array([1, -1, 0, 0])[:, None]
    table = trust.of_values(read, labels).set_index("value")
    own = table.loc["self_direction"]
    assert own["n"] == 2 and own["sign"] == 0.5 and own["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert own["error"] == pytest.approx((0.2 + 0.8 + 0.5 + 0.1) / 4)
    assert own["r"] == pytest.approx(np.corrcoef(read[:, 0], labels[:, 0])[0, 1])
    assert table.loc["power", ["r", "sign", "f1"]].tolist() == [1, 1, 1]
    assert table.loc["mean", "sign"] == pytest.approx((0.5 + 9) / 10)


def test_values_that_people_read_become_schwartzs_ten(place, monkeypatch):
    """ValueEval's categories lie in a file beside its arguments; FULCRA's labels have two signs."""
    monkeypatch.setenv("VD_DATA_DIR", str(place))
    arguments = "Argument ID\tConclusion\tStance\tPremise\n"
    arguments += "A1\tWe should ban noise\tagainst\tnoise is fun\n"
    arguments += "A2\tWe should ban noise\tin favor of\tnoise makes ill\n"
    names = "Argument ID\tSelf-direction: thought\tSelf-direction: action\tStimulation\tHedonism"
    names += "\tAchievement\tPower: dominance\tFace\tSecurity: personal\tTradition\tHumility"
    names += "\tConformity: rules\tBenevolence: caring\tUniversalism: nature"
    labels = f"{names}\nA1\t0\t0\t1\t1" + "\t0" * 9 + "\n"
    (place / "valueeval").mkdir()
    (place / "valueeval" / "arguments-training.tsv").write_text(arguments)
    with pytest.raises(ValueError, match=r"labels-training.tsv: no such file; add it"):
        sets.corpus("valueeval")
    (place / "valueeval" / "labels-training.tsv").write_text(labels)
    rows, dropped = reading.read_public("valueeval", {})
    assert dropped == {"not in labels-training.tsv": 1}
    assert [rows[0][name] for name in NAMES] == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    offended = sets.corpus("valueeval", {"of": "conclusion"}).iloc[0]
    assert (offended["response"], offended["hedonism"]) == ("We should ban noise", -1)
    (place / "fulcra").mkdir()
    talk = "Human: Hi\nBob: Well?\nHuman: May I lie?\nBob: No, be honest."
    told = [
        ["benevolence: +1", "humility: 1", "power: -1", "power: +1"],
        ["power: =1"],
        ["luck: 1"],
    ]
    lines = [{"dialogue": talk + "!" * i, "value_types": labels} for i, labels in enumerate(told)]
    (place / "fulcra" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows, dropped = reading.read_public("fulcra", {})
    assert sorted(dropped) == ["a label that cannot be read", "a value that is not among the ten"]
    assert (rows[0]["prompt"], rows[0]["response"]) == ("May I lie?", "No, be honest.")
    assert {n: rows[0][n] for n in NAMES if rows[0][n]} == {"benevolence": 1, "tradition": 1}


def test_a_detector_may_learn_from_people_and_is_tried_on_them(place, monkeypatch):
    monkeypatch.setenv("VD_DATA_DIR", str(place))
    (place / "fulcra").mkdir()
    lines = [
        {"dialogue": f"Human: Why {i}?\nBob: For {i}.", "value_types": [f"power: {i % 2 * 2 - 1}"]}
        for i in range(30)
    ]
    (place / "fulcra" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    learnt = []
    monkeypatch.setattr(cross_encoder, "train_on_numbers", lambda _, rows, *__: learnt.append(rows))
    settings = values.ValueReaderSettings(**TINY, also=["fulcra"], examples=20)
    values._train(settings, place)
    own, all_of_it = len(values.split("detector")["learnt"]), learnt[0]["prompt"]
    held_out = values.public("fulcra")[1]["text"]
    assert len(all_of_it) == own + 20 and len(held_out) == 6
    assert not set(held_out) & set(all_of_it)
    table = trust.of_public({"reader": Reads()})
    assert table["texts"].unique().tolist() == ["fulcra"] and len(table) == len(NAMES) + 1


def test_consistency_is_the_mean_of_both_ways(place, monkeypatch):
    monkeypatch.delenv("VD_DATA_DIR", raising=False)
    judge = consistency.load(consistency.ConsistencySettings(**TINY))
    originals = pd.Series(["Pay the rent first.", "Go by train.", ""], index=[5, 6, 7])
    rewrites = pd.Series(["First comes the rent.", " ", "Go."], index=[5, 6, 7])
    found = judge.score(originals, rewrites)
    assert list(found.index) == [5, 6, 7] and (found.loc[[6, 7]] == 0).all(axis=None)
    assert found["consistency"].tolist() == found[["forward", "backward"]].mean(axis=1).tolist()
    assert found.loc[5, "forward"] != found.loc[5, "backward"]
    table = trust.of_consistency(judge).set_index("texts")
    assert table.loc["entailment", "n"] > 100 and table.loc["rewrites_checked, forward", "n"] == 200
    assert set(table["accuracy"].between(0, 1)) == {True}


def test_the_judge_of_values_reads_what_the_detector_never_saw(place):
    judge = values_judge.load(ModelSettings(source="random:llama", dtype="float32"))
    parts = values.split("detector")
    texts = pd.concat([parts["other"]["text"].head(40), pd.Series(["", "word " * 3000])])
    found = judge.read(texts)
    assert found.shape == (42, 10) and (np.abs(found) <= 1).all() and (found[40] == 0).all()
    one = judge.read(texts.iloc[[3]])
    assert one[0] == pytest.approx(found[3], abs=1e-4), "whatever it is read beside"
    again = values_judge.load(ModelSettings(source="random:llama", dtype="float32"))
    assert again.name == judge.name


class Reads:
    """A reader of values: power, as far as a text says 'rule'."""

    def read(self, texts):
        found = np.zeros((len(texts), 10))
        found[:, NAMES.index("power")] = texts.str.contains("rule").to_numpy() * 0.5
        found[:, NAMES.index("hedonism")] = texts.str.contains("fun").to_numpy() * 1.0
        return found


class Entails:
    """A judge of consistency that counts words in common."""

    def score(self, originals, rewrites):
        shared = [
            len(set(a.split()) & set(b.split())) / 5
            for a, b in zip(originals, rewrites, strict=True)
        ]
        table = pd.DataFrame({"forward": shared, "backward": shared}, originals.index)
        return table.assign(consistency=shared)


def test_measures_of_rewritings_against_hand_computation():
    zero = dict.fromkeys(NAMES, 0.0)
    tasks = pd.DataFrame(
        [
            {"original": "go by train at noon", **zero, "power": 0.5},
            {"original": "go by train at noon", **zero, "power": 0.5},
            {"original": "fun is at noon today", **zero, "hedonism": -1.0, "power": 0.5},
            {"original": "go by train at noon", **zero},
        ],
        index=[4, 3, 2, 1],
    )
    texts = ["rule by train at noon", "go by train at noon", "rule of fun", "go by train at noon"]
    found = rewriting.measured(tasks, pd.Series(texts, tasks.index), Reads(), Reads(), Entails())
    assert found["L2"].tolist() == [0, 0.5, 1.0, 0]
    assert found["cosine"].tolist() == pytest.approx([1, 0, 0.5 / np.hypot(0.5, 1), 0])
    assert found["consistency"].tolist() == [0.8, 1, 0.2, 1]
    assert found["JSR"].tolist() == [True, True, False, True]
    assert found["untouched"].tolist() == [0, 0, 0, 0]
    assert found["copies"].tolist()[:3] == [0, 1, 0] and np.isnan(found["copies"].iloc[3])
    assert found["length"].tolist() == [1, 1, 0.6, 1]
    kinds = rewriting.by_kind(tasks, found)
    assert kinds["JSR at L2 < 0.4"].tolist() == [1, 0, 0, 1]
    assert kinds["JSR at L2 < 1.2"].tolist() == [1, 1, 0, 1]  # the third kept too little
    one, whole = kinds["JSR of one value"], kinds["cosine of a whole step"]
    assert one.tolist()[:2] == [1, 1] and one.isna().tolist() == [False, False, True, True]
    assert whole.notna().tolist() == [False, False, True, False]


def test_a_checkpoint_is_asked_for_rewritings(place, monkeypatch):
    monkeypatch.delenv("VD_DATA_DIR", raising=False)

    class Copies:
        def respond(self, asked, probing, seed, report=None):
            said = asked["prompt"].str.split("\n\n").str[-1]
            return asked.assign(response=said, sample=0, n_tokens=9, finish_reason="stop")

    class Study:
        name, bootstrap, probing = "values", Bootstrap(resamples=200), Probing()

    class Run:
        id, seed, is_base = "tiny/sft/seed-0", 0, False

    tiny = ModelSettings(source="random:llama", dtype="float32")
    settings = rewriting.Settings(limit=8, detector=TINY, consistency=TINY, judge_of_values=tiny)
    replies = pd.DataFrame({"step": [3]})
    rows = rewriting.evaluate(Copies(), replies, settings, Study, Run).set_index("metric")
    assert rows.loc["copies", "value"] == 1 and rows.loc["length", "value"] == 1
    assert rows.loc["untouched", "value"] == 0 and rows.loc["L2", "n"] == 8
    assert {"forward", "backward", "cosine", "cosine (reward)", "JSR"} <= set(rows.index)
    assert len(pd.read_parquet(paths.asked("values", Run.id, "rewriting", 3))) == 8


def test_values_of_replies_are_means_over_prompts(monkeypatch):
    monkeypatch.setattr(values_judge, "load", lambda model: Reads())
    replies = pd.DataFrame(
        {"prompt_id": ["a", "a", "b"], "response": ["they rule", "so it is", "fun"]}
    )

    class Study:
        bootstrap = Bootstrap(resamples=200)

    rows = metric_of_values.evaluate(None, replies, metric_of_values.Settings(), Study, None)
    rows = rows.set_index("metric")
    assert rows.loc["power", "value"] == 0.125 and rows.loc["hedonism", "value"] == 0.5
    assert rows.loc["expressed", "value"] == pytest.approx((0.25 + 1) / 2)
    assert (rows["n"] == 2).all() and len(rows) == 11
