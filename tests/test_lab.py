"""JupyterLab in a browser: the start page leads everywhere, and the explorer moves."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from urllib.parse import unquote

import pytest
from browser import errors, open_browser
from test_explorer import judged, keep

from vd import paths
from vd.servers.ports import free_port
from vd.study.load import load_study

TOKEN, WAIT = "a-token-of-this-test", 90
LAB = (
    "import vd, jupyterlab.labapp as lab; lab.main()",
    "--no-browser",
    "--allow-root",
    "--ip=127.0.0.1",
    "--LabApp.expose_app_in_browser=True",
    f"--IdentityProvider.token={TOKEN}",
)


def unwanted(folder, names):
    """What a copy of the checkout does without: environments, runs, notes."""
    return [n for n in names if n.startswith((".", "seed-")) or n == "__pycache__"]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A browser at JupyterLab, whose root is a copy of the checkout and whose results are small."""
    copy = tmp_path / "value-drifts"
    shutil.copytree(paths.ROOT, copy, ignore=unwanted)
    explorer = copy / "notebooks" / "09_explore.ipynb"
    at_smoke = explorer.read_text("utf-8").replace('STUDY = \\"pocket\\"', 'STUDY = \\"smoke\\"')
    explorer.write_text(at_smoke, "utf-8")
    monkeypatch.setenv("VD_RESULTS", str(tmp_path / "results"))
    for run in load_study("smoke").policies():
        keep(judged(run, [0] if "/base/" in run else [0, 2, 4], prompts=22), run)
    driver = open_browser()
    port = free_port()
    words = [sys.executable, "-c", *LAB, f"--port={port}", f"--ServerApp.root_dir={copy}"]
    env = os.environ | {"PYTHONPATH": str(copy), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    with open(tmp_path / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(words, cwd=copy, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: urllib.request.urlopen(f"{url}/api?token={TOKEN}").status == 200)
        yield driver, url
    finally:
        driver.quit()
        server.terminate()
        server.wait()


def wait_for(found, seconds=WAIT):
    """What `found` returns once it is something; what it raises until then is forgiven."""
    until = time.monotonic() + seconds
    while True:
        with suppress(Exception):
            if value := found():
                return value
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.3)


def opened(driver, url, name):
    """Open a notebook alone in JupyterLab; returns when its cells are there."""
    driver.get(f"{url}/lab/workspaces/w/tree/notebooks/{name}.ipynb?token={TOKEN}&reset")
    wait_for(lambda: driver.find_elements("css selector", ".jp-NotebookPanel .jp-Cell"))
    wait_for(lambda: driver.execute_script("return !!window.jupyterapp"))


def linked(driver):
    """Files that the notebook's links lead to, once all of them are known."""
    links = driver.find_elements("css selector", ".jp-RenderedMarkdown a[href]")
    targets = [unquote(link.get_attribute("href").partition("?")[0]) for link in links]
    files = {t.partition("/files/")[2].partition("#")[0] for t in targets if "/files/" in t}
    return files if any(file.endswith("vd/README.md") for file in files) else None


def test_every_link_of_the_start_page_leads_to_a_file_that_opens(lab):
    driver, url = lab
    driver.set_window_size(1280, 5000)  # cells out of sight are not rendered
    opened(driver, url, "00_start")
    wait_for(
        lambda: "pick up its values" in driver.find_element("css selector", ".jp-Notebook").text
    )
    assert wait_for(
        lambda: driver.find_elements("css selector", ".jp-Mermaid, .jp-mod-mermaid, svg")
    )
    files = wait_for(lambda: linked(driver))
    assert len(files) > 10 and {"notebooks/09_explore.ipynb", "vd/README.md"} <= files
    for file in sorted(files):
        request = f"{url}/api/contents/{file}?content=0&token={TOKEN}"
        assert json.load(urllib.request.urlopen(request))["type"] in ("notebook", "file"), file
        driver.execute_script(
            "window.jupyterapp.commands.execute('docmanager:open', {path: arguments[0]})", file
        )
        name = file.rpartition("/")[2]
        wait_for(
            lambda name=name: [
                tab
                for tab in driver.find_elements(
                    "css selector", ".lm-DockPanel-tabBar .lm-TabBar-tab"
                )
                if name in (tab.get_attribute("title") or tab.text)
            ]
        )


def test_the_explorer_runs_and_its_slider_changes_picture_and_replies(lab, tmp_path):
    from selenium.webdriver import Keys

    driver, url = lab
    opened(driver, url, "09_explore")
    wait_for(lambda: "| Idle" in driver.find_element("css selector", "#jp-main-statusbar").text)
    driver.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    handle = wait_for(lambda: driver.find_element("css selector", ".widget-slider .noUi-handle"))

    def shown():
        picture = driver.find_element("css selector", "img.widget-image").get_attribute("src")
        return picture, driver.find_element("css selector", ".widget-html-content").text

    picture, _ = wait_for(lambda: shown() if "Reply at 4" in shown()[1] else None)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    driver.save_screenshot(str(tmp_path / "explorer.png"))
    handle.send_keys(Keys.ARROW_LEFT)
    moved = wait_for(lambda: shown() if "Reply at 4" not in shown()[1] else None)
    assert moved[0] != picture and "Reply at 2" in moved[1]
    driver.save_screenshot(str(tmp_path / "explorer-moved.png"))
    failed = driver.find_elements(
        "css selector", "[data-mime-type='application/vnd.jupyter.error']"
    )
    assert not [cell.text[:300] for cell in failed]
    assert not [said for said in errors(driver) if "favicon" not in said]
