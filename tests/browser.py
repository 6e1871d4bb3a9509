"""A headless browser for tests, where one is installed; a test without one is skipped."""

import shutil

import pytest

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)


def open_browser(width=1280, height=1600):
    """A headless Chromium by selenium, of that size; skips where there is none."""
    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS)]
    if not all(found):
        pytest.skip(
            "needs chromium and chromedriver, such as Debian's chromium and chromium-driver"
        )
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    words = "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"
    for word in (*words, f"window-size={width},{height}"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    except WebDriverException as error:
        pytest.skip(f"the browser does not start: {error.msg}")


def errors(driver):
    """What the page's console says is wrong."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
