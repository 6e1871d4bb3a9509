"""Agreement between judges: measures by hand, intervals, biases that are put in and found, label sheets."""

import numpy as np
import pandas as pd
import pytest

from vd import agreement


def judges(n=400, error=0.2, seed=0):
    """Labels, a judge's stances that are wrong at that rate, and their questions."""
    rng = np.random.default_rng(seed)
    labels = pd.Series(rng.choice(agreement.LABELS, n))
    wrong = rng.random(n) < error
    seen = labels.where(~wrong, pd.Series(rng.choice(agreement.LABELS, n)))
    p = pd.DataFrame({f"p_{label}": (seen == label) * 1.0 for label in agreement.LABELS})
    return labels, p.assign(label=seen), pd.Series(np.arange(n) // 4)


def test_measures_by_hand():
    one = pd.Series(["support", "support", "oppose", "neutral", None])
    two = pd.Series(["support", "oppose", "oppose", "neutral", "support"])
    found = agreement.measures(one, two)
    assert found["n"] == 4 and found["accuracy"] == 0.75
    assert found["kappa"] == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    # eight values, 3 support, 3 oppose, 2 neutral: expected disagreement 1 - (6 + 6 + 2) / 56, observed 1 / 4
    assert found["alpha"] == pytest.approx(1 - 0.25 / (1 - 14 / 56))


def test_agreement_without_choice_is_not_defined():
    same = pd.Series(["support"] * 5)
    assert np.isnan(agreement.measures(same, same)["kappa"]) and agreement.measures(same, same)["accuracy"] == 1


def test_calibration_error_by_hand():
    labels = pd.Series(["support", "oppose", "neutral", "neutral"])
    scored = pd.DataFrame({"p_support": [0.9, 0.9, 0.0, 0.0], "p_neutral": [0.1, 0.1, 0.9, 0.9], "p_oppose": [0.0] * 4})
    scored["label"] = ["support", "support", "neutral", "neutral"]
    quality = agreement.agreement(labels, scored)
    assert quality["accuracy"] == 0.75 and quality["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert quality["calibration_error"] == pytest.approx(0.15)
    assert agreement.confusion(labels, scored["label"]).loc["oppose", "support"] == 1


def test_intervals_contain_the_value_and_narrow_with_more_questions():
    widths = []
    for n in (100, 1600):
        labels, scored, questions = judges(n)
        table = agreement.with_intervals(labels, scored["label"], questions)
        assert ((table["lo"] <= table["value"]) & (table["value"] <= table["hi"])).all()
        widths.append(table.loc["kappa", "hi"] - table.loc["kappa", "lo"])
    assert widths[1] < widths[0] / 2


def test_pairs_of_judges():
    labels, scored, questions = judges()
    _, other, _ = judges(error=0.5, seed=0)
    table = agreement.between({"labels": labels, "good": scored["label"], "bad": other["label"]}, questions, n_boot=50)
    assert list(zip(table["one"], table["two"], strict=True)) == [
        ("labels", "good"),
        ("labels", "bad"),
        ("good", "bad"),
    ]
    kappa = table["kappa"].tolist()
    assert kappa[0] > 0.7 > kappa[1] and (table["alpha"] - table["kappa"]).abs().max() < 0.05


def test_a_lean_that_was_put_in_is_found_where_it_is_and_nowhere_else():
    labels, scored, questions = judges(error=0.0)
    group = pd.Series(np.where(np.arange(400) % 8 < 4, "a", "b"))
    scored.loc[group == "a", "p_support"] += 0.3
    table = agreement.bias(labels, scored, questions, {"group": group}).set_index("group")
    assert table.loc["a", "lo"] > 0.2 and table.loc["a", "leaning"] == pytest.approx(0.3, abs=0.05)
    assert table.loc["b", "lo"] <= 0 <= table.loc["b", "hi"] and table["right"].eq(1).all()
    scored.loc[:10, agreement.P] = np.nan
    assert agreement.bias(labels, scored, questions, {"group": group})["n"].sum() == 389


@pytest.fixture
def responses():
    rows = [
        {"run": run, "step": step, "prompt": f"Question {i}?", "response": f"{run}, {step}, {i}"}
        for run in "ab" for step in (0, 10) for i in range(30)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_label_sheet_is_blind_even_and_comes_back(responses, tmp_path):
    file = tmp_path / "sheet.csv"
    assert agreement.write_sheet(responses, 20, file) == 20
    sheet = pd.read_csv(file, keep_default_na=False)
    assert list(sheet) == agreement.SHEET and sheet["label"].eq("").all() and sheet["id"].is_unique
    drawn = sheet.merge(responses, on=["prompt", "response"])
    assert drawn.groupby(["run", "step"]).size().eq(5).all()
    sheet.loc[:4, "label"] = [" Support", "OPPOSE", "neutral", "support", "oppose"]
    sheet.to_csv(file, index=False)
    found = agreement.read_sheet(file)
    assert found["label"].tolist() == ["support", "oppose", "neutral", "support", "oppose"]
    with pytest.raises(FileExistsError, match="move it away"):
        agreement.write_sheet(responses, 20, file)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("label", "yes", "label 'yes'; write support, neutral, oppose or nothing"),
        ("response", "x", "only fill in label"),
    ],
)
def test_a_sheet_that_was_spoilt_says_where(responses, tmp_path, column, value, said):
    file = tmp_path / "sheet.csv"
    agreement.write_sheet(responses, 10, file)
    sheet = pd.read_csv(file, keep_default_na=False)
    sheet.loc[2, column] = value
    sheet.to_csv(file, index=False)
    with pytest.raises(ValueError, match=said) as error:
        agreement.read_sheet(file)
    assert str(file) in str(error.value) and sheet["id"][2] in str(error.value)
