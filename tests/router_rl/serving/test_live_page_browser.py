"""The live page in a real browser: it shows what the server counts, and no name or error becomes markup."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[webdriver.Chrome]:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER), log_output=os.devnull))
    try:
        yield driver
    finally:
        driver.quit()


def _text(browser: webdriver.Chrome, part: str) -> str:
    return browser.find_element(By.ID, part).text


def test_texts_of_others_stay_texts(
    serve: Callable[..., Any], browser: webdriver.Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEYS", "key-of-a-client")
    with serve(api_key_env="MY_KEYS") as running:
        running.http.headers["authorization"] = "Bearer key-of-a-client"
        running.chat(EVIL)
        status = running.server.status()
        for part in ("experts", "queues"):
            status[part] = {f"{name} {EVIL}": each for name, each in status[part].items()}
        next(iter(status["queues"].values()))["excluded"] = f"backs off {EVIL}"
        status["router"]["folder"] = f"router {EVIL}"
        status["reference"] = f"large {EVIL}"
        status["log"] = {"down": f"the disk is full {EVIL}", "waiting": 3, "lost": 1}
        alarm = {"expert": f"small {EVIL}", "kind": "quality", "seen": 0.4, "expected": 0.9}
        status["drift"] = {"decisions": 100, "alarms": [alarm]}
        status["shadow"] = {"folder": f"shadow {EVIL}", "decisions": 1, "problem": f"too few {EVIL}"}
        monkeypatch.setattr(running.server, "status", lambda: status)
        browser.get(running.url)
        wait = WebDriverWait(browser, 20)
        wait.until(lambda _: _text(browser, "router") == "Enter an API key.")
        browser.find_element(By.ID, "key").send_keys("key-of-a-client")
        browser.find_element(By.TAG_NAME, "button").click()
        wait.until(lambda _: _text(browser, "answered") == "1")
        for part in ("router", "saved-note", "log", "models", "drift-text", "shadow-name", "shadow-text"):
            assert EVIL in _text(browser, part), part
        assert "quality 0.400, expected 0.900" in _text(browser, "drift-text")
        assert browser.find_elements(By.TAG_NAME, "img") == []
        assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
        assert browser.title == "router-rl: live"
        assert "key-of-a-client" not in browser.page_source
