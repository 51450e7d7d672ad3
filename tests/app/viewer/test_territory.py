"""Painting a country that does not exist on the map page, in a real browser."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.app.viewer.test_viewer import KEY, click, put, seen, sharp
from tests.browser import browser, pixels_of, wait_until
from tests.conftest import picture, place_bounds, write_scene
from tests.program import Server
from tilecascade.model.palette import COLOURS, PALETTE
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network
from tilecascade.model.world.sketch import COVERS, NUMBER

BOUNDS = "10.0,50.0,10.1,50.05"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("painter")
    weights = folder / "finished"
    save_network(random_network(replace(tiny(), finish="cartographic")), weights)
    scene = write_scene(folder / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    running = Server(scene, weights, folder / "data", {"TILECASCADE_API_KEY": KEY})
    yield running
    running.stop()


@pytest.fixture
def page(server: Server) -> Iterator[webdriver.Chrome]:
    with browser() as running:
        running.get(f"{server.url}/?menu")
        put(running, "key", KEY)
        click(running, "paint")
        put(running, "bounds", BOUNDS)
        running.execute_script("document.getElementById('bounds').dispatchEvent(new Event('input'))")
        yield running
        said = [line["message"] for line in running.get_log("browser") if line["level"] == "SEVERE"]
        assert not [message for message in said if "status of 400" not in message], said


def sketch(page: webdriver.Chrome) -> np.ndarray:
    return pixels_of(page.execute_script("return document.getElementById('sketch').toDataURL()"))


def share(page: webdriver.Chrome, name: str) -> float:
    """The share of the sketch that is of one ground."""
    return float((sketch(page) == np.array(COVERS[NUMBER[name]].paint)).all(axis=2).mean())


def ground(page: webdriver.Chrome, name: str) -> None:
    page.find_element(By.CSS_SELECTOR, f"#covers input[value={name}]").click()


def at(page: webdriver.Chrome, right: float, down: float) -> ActionChains:
    """The pointer at a place of the sketch, in shares of its width and height from its middle."""
    canvas = page.find_element(By.ID, "sketch")
    size = canvas.size
    return ActionChains(page).move_to_element_with_offset(
        canvas, int(right * size["width"]), int(down * size["height"])
    )


def test_a_brush_paints_whole_pixels_and_undo_takes_them_back(page: webdriver.Chrome) -> None:
    assert share(page, "water") == 1
    ground(page, "forest")
    at(page, -0.2, 0).click_and_hold().move_by_offset(150, 30).release().perform()
    painted = share(page, "forest")
    assert 0.005 < painted < 0.2
    assert share(page, "water") + painted == pytest.approx(1), "there is no third colour between them"
    ground(page, "town")
    at(page, 0.3, 0.3).click().perform()
    assert share(page, "town") > 0
    click(page, "undo")
    assert share(page, "town") == 0
    assert share(page, "forest") == painted
    click(page, "undo")
    assert share(page, "water") == 1
    assert not page.find_element(By.ID, "undo").is_enabled()


def test_an_area_is_filled_and_the_keyboard_paints_as_well(page: webdriver.Chrome) -> None:
    ground(page, "sand")
    canvas = page.find_element(By.ID, "sketch")
    canvas.send_keys(*[Keys.ARROW_RIGHT] * 3, Keys.SPACE)
    dot = share(page, "sand")
    assert 0 < dot < 0.02
    ground(page, "rock")
    click(page, "fill")
    at(page, -0.4, -0.4).click().perform()
    assert share(page, "rock") == pytest.approx(1 - dot)
    canvas.send_keys(Keys.CONTROL, "z")
    assert share(page, "water") == pytest.approx(1 - dot)
    click(page, "clear")
    assert share(page, "rock") == 1


def test_the_sketch_has_the_shape_of_its_bounds(page: webdriver.Chrome) -> None:
    height, width, _ = sketch(page).shape
    assert width == 512
    assert height == pytest.approx(512 * 0.05 / 0.1 / np.cos(np.radians(50.025)), abs=2)
    assert "7.2 × 5.5 km" in page.find_element(By.ID, "size").text
    field = page.find_element(By.ID, "bounds")
    field.clear()
    field.send_keys("5,5,4,6")
    assert not page.find_element(By.ID, "make").is_enabled()
    assert "west,south,east,north" in page.find_element(By.ID, "size").text
    click(page, "here")
    assert page.find_element(By.ID, "make").is_enabled()


def test_a_painted_territory_is_made_changed_and_removed(page: webdriver.Chrome, server: Server) -> None:
    ground(page, "grass")
    click(page, "clear")
    ground(page, "town")
    at(page, 0.2, 0.1).click_and_hold().move_by_offset(20, 10).release().perform()
    drawn = sketch(page)
    put(page, "seed", "41")
    click(page, "make")
    wait_until(
        page,
        "return location.search.includes('layer=carana') && document.getElementById('territories').children.length",
    )
    sharp(page)
    assert page.execute_script("return shown.name") == "carana"
    (made,) = json.loads(server.get("/territories").content)
    assert made["seed"] == 41
    stored = np.asarray(Image.open(io.BytesIO(server.get("/territories/carana/sketch").content)).convert("RGB"))
    assert (stored == drawn).all()
    colours = seen(page).reshape(-1, 3)
    grass = COLOURS[[name for name, *_ in PALETTE].index("grass")]
    assert (np.abs(colours.astype(int) - grass).max(axis=1) <= 3).mean() > 0.05, "right of the divider is its map"

    def press(name: str) -> None:
        for button in page.find_elements(By.CSS_SELECTOR, "#territories button"):
            if button.text == name:
                page.execute_script("arguments[0].scrollIntoView(); arguments[0].click()", button)

    press("Dice")
    told = wait_until(page, "const t = document.getElementById('made').textContent; return t.includes('has seed') && t")
    assert "41" not in told.split()
    assert json.loads(server.get("/territories").content)[0]["seed"] == int(told.split()[3])
    press("Change")
    wait_until(page, "return document.getElementById('painter').open")
    wait_until(page, "return ink.getImageData(0, 0, 1, 1).data[3]")  # the sketch has been loaded
    assert page.find_element(By.ID, "name").get_attribute("value") == "carana"
    assert (sketch(page) == drawn).all()
    click(page, "leave")
    page.execute_script("window.confirm = () => true")
    press("Remove")
    wait_until(page, "return !location.search.includes('layer')")
    assert json.loads(server.get("/territories").content) == []


def test_a_picture_is_sent_as_it_is_and_what_is_refused_is_said(
    page: webdriver.Chrome, server: Server, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(picture(300, 4)).save(photo)
    page.find_element(By.ID, "picture").send_keys(str(photo))
    wait_until(page, "return !document.getElementById('undo').disabled")
    put(page, "name", "map")
    click(page, "make")
    told = wait_until(page, "const t = document.getElementById('making').textContent; return t.includes('layer') && t")
    assert "a layer map that is no territory" in told
    put(page, "name", "photo")
    click(page, "make")
    wait_until(page, "return location.search.includes('layer=photo')")
    assert server.get("/territories/photo/sketch").content == photo.read_bytes()


def test_without_the_key_it_says_what_is_needed(page: webdriver.Chrome) -> None:
    page.execute_script("document.getElementById('key').value = ''")
    click(page, "make")
    assert page.execute_script("return document.activeElement.id") == "key"
    assert "key is needed" in page.find_element(By.ID, "made").text


def test_on_a_phone_the_sketch_and_all_tools_can_be_reached(server: Server) -> None:
    with browser(390, 780) as page:
        page.get(f"{server.url}/?menu")
        page.execute_script("document.getElementById('paint').click()")
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        assert 200 < page.find_element(By.ID, "sketch").size["width"] <= 370
        page.execute_script("document.getElementById('make').scrollIntoView()")
        assert page.find_element(By.ID, "make").is_displayed()
