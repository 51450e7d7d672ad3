"""Saying on the map page what is to be where in a territory, in a real browser."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from tests.app.viewer.test_territory import BOUNDS
from tests.app.viewer.test_viewer import KEY, click, put, sharp
from tests.browser import browser, wait_until
from tests.conftest import picture, place_bounds, write_scene
from tests.program import Server
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network
from tilecascade.model.world.sketch import COVERS, NUMBER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("areas")
    weights = folder / "finished"
    save_network(random_network(replace(tiny(), finish="cartographic")), weights)
    scene = write_scene(folder / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    running = Server(scene, weights, folder / "data", {"TILECASCADE_API_KEY": KEY})
    sketch = np.full((80, 80, 3), COVERS[NUMBER["farmland"]].paint, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(sketch).save(out, "PNG")
    query = f"/territories/carana?bounds={BOUNDS}&seed=3"
    httpx.put(running.url + query, content=out.getvalue(), headers={"X-API-Key": KEY}, timeout=60).raise_for_status()
    yield running
    running.stop()


@pytest.fixture
def page(server: Server) -> Iterator[webdriver.Chrome]:
    with browser() as running:
        running.get(f"{server.url}/?layer=carana&menu#14/50.025/10.05")
        put(running, "key", KEY)
        yield running
        said = [line["message"] for line in running.get_log("browser") if line["level"] == "SEVERE"]
        assert not [message for message in said if "status of 400" not in message], said


@pytest.mark.slow
def test_an_area_is_drawn_said_and_taken_back(page: webdriver.Chrome, server: Server) -> None:
    sharp(page)
    click(page, "draw-area")
    canvas = page.find_element(By.ID, "map")
    corners = [(-180, -120), (20, -120), (20, 80), (-180, 80)]
    for x, y in corners[:-1]:
        ActionChains(page).move_to_element_with_offset(canvas, x, y).click().pause(0.4).perform()
    ActionChains(page).move_to_element_with_offset(canvas, *corners[-1]).double_click().perform()
    wait_until(page, "return document.querySelectorAll('#areas fieldset').length === 1")
    field = page.find_element(By.CSS_SELECTOR, "#areas input[type=text]")
    field.send_keys("a zoo")
    click(page, "steer")
    told = wait_until(
        page, "const t = document.getElementById('steer-status').textContent; return t.includes('zoo') && t"
    )
    assert "says nothing that the generator knows" in told
    field.clear()
    field.send_keys("forest with a road across the river")
    Select(page.find_element(By.CSS_SELECTOR, "#areas select")).select_by_value("dusk")
    click(page, "steer")
    wait_until(page, "return document.getElementById('steer-status').textContent.startsWith('done')")
    (kept,) = json.loads(server.get("/areas/carana").content)["features"]
    said = kept["properties"]
    assert (said["prompt"], said["weather"], said["strength"]) == ("forest with a road across the river", "dusk", 0.6)
    assert said["layout"]
    ring = np.array(kept["geometry"]["coordinates"][0])
    assert len(ring) == 5
    assert np.ptp(ring[:, 0]) > 0.005
    sharp(page)
    # the page again: what was said is there, and can be taken back
    page.refresh()
    wait_until(page, "return document.querySelector('#areas input[type=text]')")
    assert page.find_element(By.CSS_SELECTOR, "#areas input[type=text]").get_attribute("value") == said["prompt"]
    put(page, "key", KEY)
    for button in page.find_elements(By.CSS_SELECTOR, "#areas button"):
        if button.text == "Remove":
            page.execute_script("arguments[0].click()", button)
            break
    click(page, "steer")
    wait_until(page, "return document.getElementById('steer-status').textContent.startsWith('done')")
    assert json.loads(server.get("/areas/carana").content)["features"] == []


def test_areas_are_shown_for_territories_only(page: webdriver.Chrome) -> None:
    assert page.find_element(By.ID, "steering").get_attribute("hidden") is None
    page.execute_script("choose(data.layers.find((layer) => !layer.territory))")
    wait_until(page, "return document.getElementById('steering').hidden")
    page.execute_script("choose(data.layers.find((layer) => layer.territory))")
    wait_until(page, "return !document.getElementById('steering').hidden")
