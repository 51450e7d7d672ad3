"""A headless Chromium for tests that look at pages. They skip where Debian's chromium is not installed."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)


@contextmanager
def browser(width: int = 1100, height: int = 760) -> Iterator[webdriver.Chrome]:
    """A window of this size in pixels. Skips without chromium."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options, Service(driver))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        running.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield running
    finally:
        running.quit()


def wait_until(page: webdriver.Chrome, script: str, seconds: float = 120) -> Any:
    """What a script returns, as soon as it is true."""
    return WebDriverWait(page, seconds, 0.1).until(lambda driver: driver.execute_script(script))


def pixels_of(url: str) -> np.ndarray:
    """H x W x 3 of a data: URL."""
    with Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as image:
        return np.asarray(image.convert("RGB"))
