"""A study as one page: everything is in it, nothing in it is live, and its filters work in a
browser.
"""

import re
import runpy

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from browser import errors, open_browser
from test_explorer import SFT, judged, keep
from test_shown import ATTACKS, live

from vd import paths
from vd.figures import report, style
from vd.store import files
from vd.study.load import load_study


@pytest.fixture
def study(place, monkeypatch):
    """The study smoke, judged, with two figures and findings, whose texts are attacks."""
    monkeypatch.delenv("VD_CONFIGS")
    found = load_study("smoke")
    attacks = [attack.encode("utf-8", "replace").decode() for attack in ATTACKS]
    for run in found.policies():
        rows = judged(run, [0] if "/base/" in run else [0, 2, 4], prompts=22)
        rows["response"] = [f"{text} by {run}" for text in (attacks * len(rows))[: len(rows)]]
        rows["prompt"] = [f"{attacks[0]} {name}?" for name in rows["prompt_id"]]
        keep(rows, run)
        about = {"wall_seconds": {"train": 3.2, "probe": 1.0}, "tokens_seen": 10}
        about |= {"tokens_generated": 20, "versions": {"python": "3"}, "hardware": {"cores": 2}}
        files.write_json(about | {"git_commit": "abc"}, paths.record("smoke", run, "run"))
    for name in ("branches", "findings"):
        figure, _ = plt.subplots(figsize=(2, 1))
        style.save(figure, pd.DataFrame({"x": [1]}), paths.figure("smoke", name))
        plt.close(figure)
    row = {"statement": attacks[1], "verdict": "holds", "paper": attacks[2], "finding": "f"}
    row |= {"estimate": 0.2, "lo": 0.1, "hi": None, "model": "m"}
    files.write_json({"findings": [row], "contrasts": []}, paths.table("smoke", "findings.json"))
    return found


def test_a_page_holds_everything_and_nothing_in_it_is_live(study):
    page = report.page(study)
    assert not re.search(r"(src|href)=.?(https?:|//)", page) and page.count("data:image/png") == 2
    tags = {tag for tag, _ in live(page)}
    assert tags <= {"img", "script", "b"} and page.count("<script>") == 1  # those of the template
    assert page.count("<table>") == len(study.policies()) + 2
    assert "+0.20" in page and "sft on sft_neutral" in page and "1 seed." in page
    assert all(f"by {run}" in page for run in study.policies())


def test_its_filters_work_in_a_browser(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["vd", "smoke", "--report"])
    runpy.run_module("vd")
    assert "report.html, 0." in capsys.readouterr().out
    driver = open_browser(width=600)
    try:
        driver.get(paths.table("smoke", "report.html").as_uri())

        def shown():
            rows = driver.find_elements("css selector", ".replies tbody tr")
            return [row for row in rows if row.is_displayed()]

        said = driver.find_element("id", "count")
        assert len(shown()) == 22 and said.text == "22 of 22 questions"
        choose(driver, "topic", "topic3")
        assert len(shown()) == 2 and all("topic3-" in row.text for row in shown())
        choose(driver, "topic", "all")
        names = [option.text for option in driver.find_elements("css selector", "#run option")]
        choose(driver, "run", "sft-support")
        assert all(f"by {SFT}" in row.text for row in shown()) and names[0] == "base"
        driver.find_element("id", "changed").click()
        changed = [row.get_attribute("data-changed") for row in shown()]
        assert 0 < len(changed) < 22 and set(changed) == {"1"}
        pictures = driver.find_elements("tag name", "img")
        whole = "return arguments[0].complete && arguments[0].naturalWidth > 0"
        assert len(pictures) == 2 and all(driver.execute_script(whole, p) for p in pictures)
        assert all(picture.get_attribute("alt") for picture in pictures)
        width = "return document.documentElement.scrollWidth"
        assert driver.execute_script(width) <= 600 and not errors(driver)
        driver.save_screenshot(str(tmp_path / "report-600.png"))
    finally:
        driver.quit()


def choose(driver, name, text):
    """Choose an option of a list by its text."""
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", name)).select_by_visible_text(text)


def test_a_study_that_is_not_judged_is_one_line(place, monkeypatch):
    monkeypatch.delenv("VD_CONFIGS")
    monkeypatch.setattr("sys.argv", ["vd", "smoke", "--report"])
    with pytest.raises(
        SystemExit, match=r"runs are not judged yet; run ./reproduce.sh smoke first"
    ):
        runpy.run_module("vd")
