"""The report in a real browser, laptop and phone: it draws what the results say, legibly."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from router_rl.reports.html_report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]

SIZES = {"laptop": (1400, 900), "phone": (400, 844)}
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
FORMS = runpy.run_path(str(Path(__file__).with_name("test_figure_drawings.py")))
EVIL = "</script><script>alert('x')</script><b>&\"'\\"

# Every text that can be read, with its box and its chart's, in px; names that found no room have opacity 0.
TEXTS = """
return [...document.querySelectorAll(".vega svg")].map((svg) => {
  const outer = svg.getBoundingClientRect();
  const seen = (text) => text.getAttribute("opacity") !== "0" && text.getAttribute("font-size") !== "0px";
  const texts = [...svg.querySelectorAll("text")].filter((text) => seen(text) && text.textContent);
  const boxes = texts.map((text) => {
    const { left, top, right, bottom } = text.getBoundingClientRect();
    const turned = / rotate\\((?!0)/.test(text.getAttribute("transform"));
    const size = parseFloat(text.getAttribute("font-size"));
    return { text: text.textContent, left, top, right, bottom, size, turned };
  });
  return { left: outer.left, top: outer.top, right: outer.right, bottom: outer.bottom, boxes };
});
"""


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
    WebDriverWait(browser, 20).until(lambda page: page.execute_script(_DRAWN))
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return browser.get_log("browser"), asked


_DRAWN = "return document.documentElement.dataset.drawn !== undefined"


def many() -> dict[str, Any]:
    """Methods and experts without room for their names, and no interval of quality or compute."""
    families = ("rl", "gate", "baseline")
    methods = {
        f"a_method_with_a_long_name_{i}": (families[i % 3], -0.002 * i, 0.3 + 0.01 * i) for i in range(25)
    }
    results = SAMPLES["sample_results"](methods, experts=64)
    for row in results["summary"]:
        row |= {"quality_ci95": None, "compute_ci95": None}
    return results


def crowd() -> dict[str, Any]:
    return SAMPLES["sample_results"](SAMPLES["CROWD"], experts=7) | {"seeds": [0, 1, 2, 3, 4]}


def figures() -> dict[str, Any]:
    """An environment with a figure of every form: one of the summary, the others of methods."""
    results = SAMPLES["environment_results"]()
    sizes = {"load 0.5": 2.0, "load 0.9": 4.0}
    results["summary"] = [
        {**row, "resident_gb": sizes[row["case"]], "resident_share": 0.5} for row in results["summary"]
    ]
    for form, data in FORMS["DATA"].items():
        if form != "queue_timeline":
            figure = {"form": form, "title": form, "note": "A note.", "data": data}
            results["figures"] += [{"method": name, **figure} for name in ("rollout", "gate")]
    return results


def queries() -> dict[str, Any]:
    """A comparison with single queries and costs in dollars."""
    results = SAMPLES["sample_results"]()
    results["table_facts"] |= {"cost_unit": "usd", "compute_unit": 0.0157}
    rows = [
        {"id": f"q{i}", "prompt": f"{EVIL} bridge {i}", "group": "law", "experts": [i % 8]}
        | {"quality": 0.5, "cost": 0.001, "each_quality": [0.5] * 8, "each_cost": [0.001] * 8}
        for i in range(12)
    ]
    results["queries"] = {"method": "warm_exact_pg", "case": "compute weight 0.1", "total": 360, "rows": rows}
    return results


def long_words() -> dict[str, Any]:
    long = "word" * 60
    results = SAMPLES["sample_results"]()
    results |= {"command": long, "verdict": [long], "notes": [long], "warnings": [long]}
    results |= {"commit": long, "versions": {long: long}}
    results["recommendation"]["sentence"] = long
    results["problem"] |= {"source": long, "about": long, "utility": long, "options": {long: long}}
    results["problem"]["experts"][0] = results["singles"][0]["expert"] = long
    return json.loads(json.dumps(results).replace("warm_exact_pg", long).replace("digits 0", long))


KINDS: dict[str, tuple[Callable[[], dict[str, Any]], int]] = {  # results, and the charts of their page
    "crowd": (crowd, 3),
    "many": (many, 3),
    "bare": (SAMPLES["bare_results"], 0),
    "figures": (figures, 9),
    "queries": (queries, 3),
    "long words": (long_words, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_opens_clean_fits_and_is_legible(
    browser: webdriver.Chrome, tmp_path: Path, size: str, kind: str
) -> None:
    make, count = KINDS[kind]
    path = tmp_path / "report.html"
    write_report(make(), path)
    console, asked = opened(browser, path, size)
    assert console == []
    assert {address for address in asked if not address.startswith("data:")} == {path.as_uri()}
    width = SIZES[size][0]
    assert browser.execute_script("return window.innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    charts = browser.execute_script(TEXTS)
    assert len(charts) == count
    for chart in charts:
        assert 0 <= chart["left"] < chart["right"] <= width
        assert chart["right"] - chart["left"] > (250 if size == "phone" else 500)
        boxes = chart["boxes"]
        for i, box in enumerate(boxes):
            assert box["size"] >= 10.5
            assert chart["left"] - 1 <= box["left"] < box["right"] <= chart["right"] + 1, box
            assert chart["top"] - 1 <= box["top"] < box["bottom"] <= chart["bottom"] + 1, box
            for other in boxes[:i]:
                apart = box["left"] >= other["right"] or other["left"] >= box["right"]
                apart |= box["top"] + 2 >= other["bottom"] or other["top"] + 2 >= box["bottom"]
                assert apart or box["turned"] or other["turned"], (box, other)


@pytest.mark.slow
def test_every_result_is_drawn_as_a_point(browser: webdriver.Chrome, tmp_path: Path) -> None:
    results = SAMPLES["sample_results"]()
    path = tmp_path / "report.html"
    write_report(results, path)
    opened(browser, path, "laptop")
    labels = [
        [
            point.get_attribute("aria-label")
            for point in chart.find_elements(By.CSS_SELECTOR, ".points_marks path")
        ]
        for chart in browser.find_elements(By.CSS_SELECTOR, ".vega svg")[:2]
    ]
    assert labels[0] == labels[1]
    for row in results["summary"]:
        said = f"{row['method']}, {row['case']}: quality {row['quality_mean']:.3f} ["
        assert len([label for label in labels[0] if label.startswith(said)]) == 1
    assert len(labels[0]) == len(results["summary"]) + len(results["singles"])
    text = browser.find_element(By.TAG_NAME, "body").text
    for row in results["summary"]:
        assert f"{row['utility_mean']:.4f}" in text
    for sentence in results["verdict"] + results["notes"] + results["warnings"]:
        assert sentence in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_coloured_by_the_page(browser: webdriver.Chrome, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "report.html"
    write_report(figures(), path)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        opened(browser, path, "laptop")
        text = browser.find_element(By.CSS_SELECTOR, ".role-axis text").value_of_css_property("fill")
        area = browser.find_element(By.CSS_SELECTOR, ".mark-area path").value_of_css_property("fill")
        expected = {
            "light": ("rgb(85, 93, 102)", "rgb(11, 92, 173)"),
            "dark": ("rgb(169, 176, 184)", "rgb(116, 182, 247)"),
        }
        assert (text, area) == expected[scheme]
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_key_shows_and_hides_methods(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(crowd(), path)
    opened(browser, path, "laptop")
    texts = "document.querySelectorAll('.names_marks text[opacity=\"1\"]')"
    names = f"return [...{texts}].map((text) => text.textContent)"
    faint = "return document.querySelectorAll('.vega .points_marks path[opacity=\"0.2\"]').length"
    shown, before = browser.execute_script(names), browser.execute_script(faint)
    assert "rl_0" in shown
    assert not set(shown) & {f"rl_{i}" for i in range(1, 7)}
    browser.find_element(By.CSS_SELECTOR, "[data-method=rl_6]").click()
    points = 2 * len(SAMPLES["WEIGHTS"])  # in both charts
    WebDriverWait(browser, 5).until(lambda page: page.execute_script(faint) == before - points)
    browser.find_element(By.CSS_SELECTOR, "[data-method=rl_0]").click()
    WebDriverWait(browser, 5).until(lambda page: page.execute_script(faint) == before)
    assert "rl_0" not in browser.execute_script(names)


def test_names_follow_their_points_when_a_chart_is_zoomed(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(SAMPLES["sample_results"]({"ppo": SAMPLES["METHODS"]["ppo"]}), path)
    opened(browser, path, "laptop")
    chart = browser.find_elements(By.CSS_SELECTOR, ".vega")[1]

    def distance() -> float:
        """Return how far the name is from the nearest point of its method, in px."""
        name = chart.find_element(By.XPATH, ".//*[contains(@class,'names_marks')]//*[text()='ppo']").rect
        points = chart.find_elements(By.CSS_SELECTOR, ".points_marks path[aria-label^='ppo, ']")
        gaps = [abs(point.rect["y"] - name["y"]) + abs(point.rect["x"] - name["x"]) for point in points]
        return min(gaps)

    ticks = "return arguments[0].textContent"
    before = browser.execute_script(ticks, chart)
    origin = ScrollOrigin.from_element(chart, 150, -100)
    browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", chart)
    wheel = ActionChains(browser).key_down(Keys.SHIFT).scroll_from_origin(origin, 0, -200)
    wheel.key_up(Keys.SHIFT).perform()
    WebDriverWait(browser, 5).until(lambda page: page.execute_script(ticks, chart) != before)
    assert distance() < 60


def test_menus_and_search_pick_what_is_shown(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(queries(), path)
    opened(browser, path, "laptop")
    texts = "document.querySelectorAll('.vega .layer_1_marks text')"  # percentages
    squares = f"return [...{texts}].map((text) => text.textContent)"
    before = browser.execute_script(squares)
    menu = browser.find_element(By.CSS_SELECTOR, ".vega-bind select")
    menu.find_element(By.CSS_SELECTOR, "option:nth-child(2)").click()
    WebDriverWait(browser, 5).until(lambda page: page.execute_script(squares) != before)
    box = browser.find_element(By.CSS_SELECTOR, "input[type=search]")
    box.send_keys("BRIDGE 1")
    rows = browser.find_elements(By.CSS_SELECTOR, "#queries-table > tbody > tr")
    assert [i for i, row in enumerate(rows) if row.is_displayed()] == [1, 10, 11]
    assert browser.find_element(By.ID, "queries-count").text == "3 of 12 queries"


def test_hostile_names_are_text_in_charts_and_tooltips(browser: webdriver.Chrome, tmp_path: Path) -> None:
    names = json.dumps(EVIL)[1:-1]
    results = json.loads(json.dumps(queries()).replace("warm_exact_pg", names).replace("digits 0, 1", names))
    results["problem"]["experts"][0] = results["singles"][0]["expert"] = EVIL
    path = tmp_path / "report.html"
    write_report(results, path)
    console, _ = opened(browser, path, "laptop")
    point = browser.find_element(By.CSS_SELECTOR, f".points_marks path[aria-label^={json.dumps(EVIL)}]")
    ActionChains(browser).move_to_element(point).perform()
    tooltip = browser.find_element(By.ID, "vg-tooltip-element")
    WebDriverWait(browser, 5).until(lambda _: tooltip.is_displayed())
    assert EVIL in tooltip.text
    assert EVIL in browser.find_element(By.CSS_SELECTOR, ".vega-bind select").text
    assert console == []
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 2


def test_without_scripts_the_numbers_are_still_there(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    results = SAMPLES["sample_results"]()
    write_report(results, path)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(path.as_uri())
        table = browser.find_element(By.CSS_SELECTOR, ".charts details")
        table.find_element(By.TAG_NAME, "summary").click()
        assert len(table.find_elements(By.CSS_SELECTOR, "tbody tr")) == len(results["summary"]) + 8
        assert "needs JavaScript" in browser.find_element(By.CSS_SELECTOR, ".charts").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_crowd_s_table_needs_no_scrolling_on_a_laptop(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(crowd(), path)
    opened(browser, path, "laptop")
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Results table']")
    assert int(table.get_property("scrollWidth")) <= int(table.get_property("clientWidth"))


@pytest.mark.slow
def test_this_test_would_see_a_request_and_a_message(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<!doctype html><html data-drawn><img src="http://127.0.0.1:9/x.png"><script>console.error("no")</script>'
    )
    console, asked = opened(browser, path, "laptop")
    assert any(address.startswith("http://127.0.0.1:9/") for address in asked)
    assert any("no" in entry["message"] for entry in console)
