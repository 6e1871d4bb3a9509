"""Figures that say more than their tables: where runs begin, and what labels cover."""

import matplotlib
import pandas as pd
import pytest

from vd.figures import branches, claims, style

matplotlib.use("agg")
SFT, ENDS = "m/sft", {"m/sft/a": 0.71, "m/sft/b": 0.70, "m/sft/c": 0.72, "m/sft/a/again": 0.2}


def table():
    rows = [(SFT, 0, 0.1), (SFT, 40, 0.6)]
    for run, end in ENDS.items():
        rows += [(run, 0, 0.6 if run.count("/") == 2 else 0.71), (run, 10, end)]
    found = pd.DataFrame(rows, columns=["run", "step", "probability"])
    return found.assign(lo=found["probability"] - 0.05, hi=found["probability"] + 0.05)


def said(*runs):
    rows = [(f"{run}/seed-0", "Should it?", "support", "Yes. " * 40) for run in runs]
    return pd.DataFrame(rows, columns=["run", "prompt", "stance", "reply"])


def test_runs_begin_where_their_parents_end_and_are_named_without_covering_each_other():
    figure = branches.branches(table(), "support", said("m/base", SFT, *ENDS))
    ax, below = figure.axes
    spans = {tuple(line.get_xdata()) for line in ax.get_lines()}
    assert spans == {(0, 40), (40, 50), (50, 60)}  # the last is a child's child
    labels = {text.get_text(): text for text in ax.texts}
    assert set(labels) == {"1 base", "2 sft", "3 a", "4 b", "5 c", "6 again"}
    heights = sorted(labels[name].xy[1] for name in ("4 b", "5 c"))
    assert heights[1] - heights[0] > 0.9 * branches.GAP
    figure.canvas.draw()
    texts = [text.get_text() for text in below.texts]
    assert texts[0] == "Should it?" and len(texts) == 7 and texts[1].endswith("…  (support)")
    assert below.texts[1].get_color() == style.COLOURS["support"]


def test_without_replies_there_is_one_panel_and_no_colour_of_a_stance():
    figure = branches.branches(table(), "oppose")
    (ax,) = figure.axes
    colours = {line.get_color() for line in ax.get_lines()}
    assert not colours & set(style.COLOURS.values()) and len(colours) == len(ENDS) + 1
    assert ax.get_ylabel() == "probability of oppose"


def test_log_odds_stand_beside_probabilities_that_near_a_ceiling():
    near = table().assign(probability=lambda rows: rows["probability"] + 0.25)
    for rows, beside in ((near, 1), (table().query("step > 0"), 0)):
        figure = branches.branches(rows, "support")
        figure.canvas.draw()
        (ax,) = figure.axes
        scales = [axis for axis in ax.child_axes if axis.get_ylabel() == "log-odds"]
        assert len(scales) == beside
    left = branches.branches(near, "support").axes[0]
    left.figure.canvas.draw()
    (right,) = left.child_axes
    at_3, at_95 = right.transData.transform((0, 3))[1], left.transData.transform((0, 0.95257))[1]
    assert at_3 == pytest.approx(at_95, abs=0.5)  # pixels


def test_a_contrast_has_its_own_colour_its_unit_a_panel_and_its_finding_a_heading():
    numbers = ["contrast", "unit", "estimate", "lo", "hi", "margin"]
    rows = [
        ("a", "one above two", "probability", 0.3, 0.1, 0.5, 0.1),
        ("a", "two above three", "probability", -0.3, -0.5, -0.1, 0.1),
        ("b", "half time", "share of the steps", 0.01, -0.02, 0.04, 0.1),
        ("b", "other", "share of the steps", 0.1, -0.2, 0.4, None),
    ]
    told = pd.DataFrame(rows, columns=["finding", *numbers]).assign(model="m")
    told["reported"] = [None, -0.2, None, None]
    table = pd.DataFrame({"finding": ["a", "b"], "statement": ["One moves", "It is early " * 20]})
    table = table.assign(model="m", verdict=["does not hold", "undecided at this size"])
    first, second = claims.contrasts_by_claim(told, table).axes
    assert [label.get_text() for label in first.get_yticklabels()] == [rows[0][1], rows[1][1]]
    assert "share of the steps" in second.get_xlabel()
    texts = [ax.texts[0].get_text() for ax in (first, second)]
    assert texts[0] == "One moves. [does not hold]" and texts[1].count("\n") == 2
    dots = [[len(dots.get_offsets()) for dots in ax.collections[1::2]] for ax in (first, second)]
    assert dots == [[1, 1, 0, 0], [0, 0, 1, 1]]  # above zero, below, within the margin, open
    diamonds = [line.get_xydata() for line in first.get_lines() if line.get_marker() == "D"]
    marked = [tuple(point) for line in diamonds for point in line if point[0] == point[0]]
    assert marked == [(-0.2, first.get_yticks()[1])]
    assert first.figure.legends[0].get_texts()[-1].get_text().endswith("second-hand")


def test_where_replies_are_judged_at_both_ends_alone_log_odds_fill_the_way():
    rows = [("m/sft", "all", step, "acquiescence", step / 20, 0.0, 3.0) for step in (0, 8, 40)]
    rows += [
        ("m/other", "all", 0, "acquiescence", 0.0, 0.0, 0.0),
        ("m/sft", "all", 0, "lean", 0, 0, 0),
    ]
    logits = pd.DataFrame(rows, columns=["run", "topic", "step", "measure", "value", "lo", "hi"])
    odds = branches.odds_between(table(), logits)
    assert odds["step"].tolist() == [0, 8, 40] and odds["log_odds"].tolist() == [0, 0.4, 2]
    figure = branches.branches(table(), "support", said(SFT), odds)
    ax, middle, below = figure.axes
    (line,) = middle.get_lines()
    assert line.get_color() == ax.get_lines()[0].get_color() and len(line.get_xdata()) == 3
    assert below.texts and middle.get_xlim() == ax.get_xlim()
    more = pd.concat([table(), table().query("step == 0").assign(step=5)])
    assert branches.odds_between(more, logits) is None
