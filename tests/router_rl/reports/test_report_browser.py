"""The report in a real browser, laptop and phone: no console messages, no requests, no sideways scrolling."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from router_rl.reports.html_report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]

SIZES = {"laptop": (1440, 900), "phone": (390, 844)}
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
# The same made-up results as the unit tests, by path: the tests are no package.
SAMPLES = runpy.run_path(str(Path(__file__).with_name("test_html_report.py")))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Start one headless chromium with an empty profile and full logs."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "localhost,127.0.0.1")
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        service = Service(str(DRIVER), log_output=os.devnull)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield driver
        finally:
            driver.quit()


def opened(browser: webdriver.Chrome, path: Path, size: str) -> tuple[list[Any], list[str]]:
    """Open a file at a screen size; return the console's messages and every address asked for."""
    width, height = SIZES[size]
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return browser.get_log("browser"), asked


def many() -> dict[str, Any]:
    families = ("rl", "gate", "baseline")
    methods = {
        f"a_method_with_a_long_name_{i}": (families[i % 3], -0.002 * i, 0.3 + 0.01 * i) for i in range(25)
    }
    return SAMPLES["sample_results"](methods, experts=64)


def crowd() -> dict[str, Any]:
    return SAMPLES["sample_results"](SAMPLES["CROWD"], experts=7) | {"seeds": [0, 1, 2, 3, 4]}


def caching() -> dict[str, Any]:
    """An environment with a figure of each layout: one of the summary, one of a method."""
    results = SAMPLES["environment_results"]()
    sizes = {"load 0.5": 2.0, "load 0.9": 4.0}
    results["summary"] = [
        {**row, "resident_gb": sizes[row["case"]], "resident_share": 0.5} for row in results["summary"]
    ]
    data = {"experts": ["small", "large"], "resident": [[1, 0]] * 96, "answered": [0] * 96}
    figure = {"form": "cache_residency", "title": "Residency", "note": "One test episode.", "data": data}
    return results | {"figures": [{"method": "rollout", **figure}]}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["usual", "crowd", "many", "bare", "environment", "caching", "long words"])
def test_opens_clean_and_fits(browser: webdriver.Chrome, tmp_path: Path, size: str, kind: str) -> None:
    made = {"many": many, "crowd": crowd, "bare": SAMPLES["bare_results"], "caching": caching}
    made["environment"] = SAMPLES["environment_results"]
    results = made.get(kind, SAMPLES["sample_results"])()
    if kind == "long words":
        long = "word" * 60
        results |= {"command": long, "verdict": [long], "notes": [long], "warnings": [long]}
        results |= {"commit": long, "versions": {long: long}}
        results["recommendation"]["sentence"] = long
        results["problem"] |= {"source": long, "about": long, "utility": long, "options": {long: long}}
        results["problem"]["experts"][0] = results["singles"][0]["expert"] = long
        results = json.loads(json.dumps(results).replace("warm_exact_pg", long).replace("digits 0", long))
    path = tmp_path / "report.html"
    write_report(results, path)
    console, asked = opened(browser, path, size)
    assert console == []
    assert {address for address in asked if not address.startswith("data:")} == {path.as_uri()}
    width = SIZES[size][0]
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    charts = [chart for chart in browser.find_elements(By.CSS_SELECTOR, "svg.chart") if chart.is_displayed()]
    assert len(charts) == (0 if kind in ("bare", "environment", "caching") else 2)
    drawings = browser.find_elements(By.CSS_SELECTOR, "svg.drawing")
    assert len(drawings) == {"environment": 1, "caching": 2}.get(kind, 0)
    assert all(chart.size["width"] > 300 and chart.size["height"] > 300 for chart in charts)


@pytest.mark.parametrize("size", SIZES)
def test_numbers_are_in_the_page_and_text_is_legible(
    browser: webdriver.Chrome, tmp_path: Path, size: str
) -> None:
    results = SAMPLES["sample_results"]()
    path = tmp_path / "report.html"
    write_report(results, path)
    opened(browser, path, size)
    text = browser.find_element(By.TAG_NAME, "body").text
    for row in results["summary"]:
        assert f"{row['utility_mean']:.4f}" in text
        assert f"{row['quality_mean']:.3f}" in text
    for sentence in results["verdict"] + results["notes"] + results["warnings"]:
        assert sentence in text
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('.chart text')]"
        ".filter(t => t.getClientRects().length).map(t => 12 * t.ownerSVGElement.getScreenCTM().a))"
    )
    assert smallest >= 10.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_drawings_are_coloured_by_the_page(browser: webdriver.Chrome, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "report.html"
    write_report(caching(), path)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        opened(browser, path, "laptop")
        text = browser.find_element(By.CSS_SELECTOR, ".drawing text").value_of_css_property("fill")
        strong = browser.find_element(By.CSS_SELECTOR, ".drawing .strong").value_of_css_property("fill")
        expected = {
            "light": ("rgb(27, 31, 36)", "rgb(11, 92, 173)"),
            "dark": ("rgb(232, 230, 225)", "rgb(116, 182, 247)"),
        }
        assert (text, strong) == expected[scheme]
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_choosing_works_without_scripts(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(SAMPLES["sample_results"](), path)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, path, "laptop")
        maps = browser.find_elements(By.CLASS_NAME, "heat-map")
        assert [one.is_displayed() for one in maps] == [True] + [False] * (len(maps) - 1)
        browser.find_element(By.CSS_SELECTOR, "label[for=heat-1]").click()
        assert [i for i, one in enumerate(maps) if one.is_displayed()] == [1]
        mark = browser.find_element(By.CSS_SELECTOR, ".wide .chart .mark.m0")
        name = browser.find_element(By.CSS_SELECTOR, ".wide .chart .name.m0")
        assert name.is_displayed()
        browser.find_element(By.ID, "show-0").click()
        assert not name.is_displayed()
        assert float(mark.value_of_css_property("opacity")) < 0.5
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_crowd_s_table_needs_no_scrolling_on_a_laptop(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(crowd(), path)
    opened(browser, path, "laptop")
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Results table']")
    assert int(table.get_property("scrollWidth")) <= int(table.get_property("clientWidth"))
    names = [
        name for name in browser.find_elements(By.CSS_SELECTOR, ".wide .chart .name") if name.is_displayed()
    ]
    assert not {name.text for name in names} & {f"rl_{i}" for i in range(1, 7)}
    browser.find_element(By.CSS_SELECTOR, ".pick summary").click()
    hidden = browser.find_element(By.CSS_SELECTOR, ".pick .pick label")
    hidden.click()
    (shown,) = [one for one in browser.find_elements(By.CLASS_NAME, "heat-map") if one.is_displayed()]
    assert hidden.text in shown.text


def test_this_test_would_see_a_request_and_a_message(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<!doctype html><img src="http://127.0.0.1:9/x.png"><script>console.error("no")</script>')
    console, asked = opened(browser, path, "laptop")
    assert any(address.startswith("http://127.0.0.1:9/") for address in asked)
    assert any("no" in entry["message"] for entry in console)
