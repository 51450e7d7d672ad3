"""The map page in a real browser: everything that it offers, on a desktop and on a phone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mercantile
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.app.tiles.test_confidence import TABLE
from tests.browser import browser, wait_until
from tests.conftest import PLACE, picture, place_bounds, write_scene
from tests.program import Server
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.model.cascade import tile_window
from tilecascade.model.palette import COLOURS, PALETTE
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network

KEY = "a key of the tests"
STATES = "[...document.querySelectorAll('.leaflet-%s-pane .tile')].map(t => t.dataset.state)"
FINISHED = {"cached", "generated", "base-map", "none", "200"}
"""States of a tile that will not change by itself; imagery has no other state than its status."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("viewer")
    weights = folder / "calibrated"
    save_network(random_network(replace(tiny(), calibration=TABLE)), weights)
    scene = write_scene(folder / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    write_scene(folder / "fresh.tif", picture(1024, 9), place_bounds(), "EPSG:3857")
    running = Server(scene, weights, folder / "data", {"TILECASCADE_API_KEY": KEY})
    yield running
    running.stop()


@pytest.fixture
def page(server: Server) -> Iterator[webdriver.Chrome]:
    with browser() as running:
        running.get(server.url)
        yield running
        said = [line["message"] for line in running.get_log("browser") if line["level"] == "SEVERE"]
        # what a test refuses on purpose; tiles without imagery and unfinished ones are no errors
        refused = ("status of 401", "status of 403", "status of 422")
        assert not [message for message in said if not any(status in message for status in refused)], said


def click(page: webdriver.Chrome, id: str) -> None:
    page.find_element(By.ID, id).click()


def put(page: webdriver.Chrome, id: str, text: str) -> None:
    field = page.find_element(By.ID, id)
    page.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", field, text
    )


def sharp(page: webdriver.Chrome, pane: str = "generated") -> None:
    """Wait until every tile of the view is finished, and has been faded in."""
    wait_until(
        page,
        f"""const states = {STATES % pane};
        return states.length > 3 && states.every(s => {sorted(FINISHED)}.includes(s))""",
    )
    wait_until(
        page, "return [...document.querySelectorAll('.tile img')].every(i => getComputedStyle(i).opacity === '1')"
    )


def seen(page: webdriver.Chrome) -> np.ndarray:
    with Image.open(io.BytesIO(page.get_screenshot_as_png())) as shot:
        return np.asarray(shot.convert("RGB"))


def test_it_shows_generated_tiles_and_says_so(page: webdriver.Chrome) -> None:
    sharp(page)
    states = set(page.execute_script("return " + STATES % "generated"))
    assert states & {"cached", "generated"}
    assert "generated, not surveyed" in page.find_element(By.CLASS_NAME, "leaflet-control-attribution").text
    click(page, "menu")
    click(page, "states")
    labels = [label.text for label in page.find_elements(By.CLASS_NAME, "state") if label.is_displayed()]
    assert set(labels) <= {"no imagery" if state == "none" else state for state in states}
    assert labels
    assert not page.find_element(By.ID, "work").is_displayed()


def test_it_begins_with_the_whole_scene(page: webdriver.Chrome) -> None:
    west, south, east, north = place_bounds("EPSG:4326")
    left, bottom, right, top = map(float, page.execute_script("return map.getBounds().toBBoxString()").split(","))
    assert left <= west < east <= right
    assert bottom <= south < north <= top
    assert east - west > (right - left) / 5


def test_the_address_keeps_the_view(page: webdriver.Chrome, server: Server) -> None:
    sharp(page)
    middle = mercantile.bounds(PLACE)
    page.get(f"{server.url}/#15/{middle.south:.5f}/{middle.west:.5f}")
    page.refresh()
    wait_until(page, "return map.getZoom() === 15")
    assert abs(page.execute_script("return map.getCenter().lng") - middle.west) < 1e-4
    page.find_element(By.ID, "map").send_keys(Keys.ADD)
    wait_until(page, "return location.hash.startsWith('#16/')")


def test_the_swipe_shows_the_imagery_beside_the_map(page: webdriver.Chrome, server: Server, tmp_path: Path) -> None:
    page.execute_script("map.setZoom(16, {animate: false})")  # the scene fills the view
    sharp(page)
    sharp(page, "imagery")
    click(page, "menu")
    click(page, "compare")
    click(page, "menu")
    tile, corner = page.execute_script(
        """const size = map.getSize(), at = map.containerPointToLatLng([size.x / 4, size.y / 2]);
        const pixel = map.project(at).floor(), tile = pixel.divideBy(256).floor();
        const corner = map.latLngToContainerPoint(map.unproject(tile.multiplyBy(256)));
        return [[tile.x, tile.y, map.getZoom()], [corner.x, corner.y]]"""
    )
    left, top = (round(value) for value in corner)
    scene = write_scene(tmp_path / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    truth, _ = SceneMosaic([open_scene(scene)]).read(tile_window(mercantile.Tile(*tile)))
    image = seen(page)[top : top + 256, left : left + 256]
    there = np.abs(image.astype(int) - truth[: image.shape[0], : image.shape[1]]).mean()
    assert there < 12, "left of the divider is the imagery"
    before = seen(page)[:, -200:-60]
    page.find_element(By.ID, "swipe").send_keys(Keys.END)
    after = seen(page)[:, -200:-60]
    assert np.abs(before.astype(int) - after).mean() > 5, "at the end all of the page is imagery"


def test_how_far_to_trust_it_is_laid_over_the_map(page: webdriver.Chrome) -> None:
    sharp(page)
    before = seen(page)
    click(page, "menu")
    assert not page.find_element(By.ID, "scale").is_displayed()
    click(page, "trust")
    assert "wrong pixels expected" in page.find_element(By.ID, "scale").text
    click(page, "menu")
    sharp(page, "trust")
    assert np.abs(before.astype(int) - seen(page)).mean() > 5
    click(page, "menu")
    click(page, "trust")
    click(page, "menu")
    wait_until(page, "return !document.querySelector('.leaflet-trust-pane .tile')")


def test_a_generated_box_is_prefetched(page: webdriver.Chrome, server: Server) -> None:
    sharp(page)
    click(page, "menu")
    put(page, "key", KEY)
    click(page, "box")
    area = page.find_element(By.ID, "map")
    ActionChains(page).move_to_element_with_offset(area, -200, -150).click_and_hold().move_by_offset(
        100, 120
    ).release().perform()
    told = wait_until(page, "return document.getElementById('estimate').textContent")
    assert "tiles" in told, told
    wait_until(page, "return !document.getElementById('start').disabled")
    click(page, "start")
    done = wait_until(page, "const t = document.getElementById('job').textContent; return t.startsWith('done') && t")
    count = int(done.split()[1])
    assert count > 0
    assert done == f"done: {count} of {count} tiles finished, 0 failed"
    assert page.execute_script("return document.getElementById('progress').value") == 1


def test_without_the_key_it_says_what_is_needed(page: webdriver.Chrome) -> None:
    sharp(page)
    click(page, "menu")
    put(page, "key", "")
    click(page, "view")
    assert "key" in wait_until(page, "return document.getElementById('estimate').textContent")


def answer(page: webdriver.Chrome, name: str) -> None:
    """Press a button of the popup."""
    wait_until(page, "return document.querySelector('.review')")
    for button in page.find_elements(By.CSS_SELECTOR, ".review button"):
        if button.text == name:
            button.click()
            return
    raise AssertionError(f"there is no button {name}: {page.find_element(By.CLASS_NAME, 'review').text}")


def at(page: webdriver.Chrome, right: int, down: int) -> ActionChains:
    """The pointer at a place of the map, in pixels from its middle."""
    return ActionChains(page).move_to_element_with_offset(page.find_element(By.ID, "map"), right, down)


@pytest.fixture
def reviewed(tmp_path: Path) -> Iterator[Server]:
    """A server whose layer has map objects."""
    weights = tmp_path / "finished"
    save_network(random_network(replace(tiny(), finish="cartographic")), weights)
    scene = write_scene(tmp_path / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    running = Server(scene, weights, tmp_path / "data", {"TILECASCADE_API_KEY": KEY})
    yield running
    running.stop()


@pytest.mark.slow
def test_an_object_is_reviewed_and_drawn_and_the_map_shows_it(page: webdriver.Chrome, reviewed: Server) -> None:
    page.get(reviewed.url)
    sharp(page)
    building = COLOURS[[name for name, *_ in PALETTE].index("building")]

    def off() -> float:
        """How far the middle of the page is from the colour of a building."""
        sharp(page)
        picture = seen(page)
        row, column = picture.shape[0] // 2, picture.shape[1] // 2
        middle = picture[row - 8 : row + 8, column - 12 : column + 12].astype(int)
        return float(np.abs(middle - building).max())

    def trace() -> None:
        page.execute_script("redraw({layer: 'building', class: 'building', zoom: 16})")  # whatever is there
        for right, down in ((-40, -30), (40, -30), (40, 30)):
            at(page, right, down).click().perform()
        at(page, -40, 30).double_click().perform()

    note = "return document.getElementById('note').textContent"
    trace()
    wait_until(page, f"{note}.includes('needs the key')")
    put(page, "key", KEY)
    click(page, "menu")
    assert off() > 3, "there is no building yet"
    trace()
    wait_until(page, f"{note}.startsWith('Kept')")
    WebDriverWait(page, 30).until(lambda _: off() <= 3, "the map shows what was drawn")

    at(page, 0, 0).click().perform()
    answer(page, "Wrong")
    popup = "return document.querySelector('.review').textContent"
    wait_until(page, f"{popup}.startsWith('Kept')")
    reviews = json.loads(reviewed.get("/reviews/map").content)["features"]
    assert [each["properties"]["verdict"] for each in reviews] == ["redrawn", "rejected"]
    answer(page, "Undo")
    wait_until(page, f"{popup} === 'taken back'")
    page.execute_script("map.closePopup()")
    wait_until(page, "return !document.querySelector('.leaflet-popup')")
    WebDriverWait(page, 30).until(lambda _: off() <= 3, "it is there again")
    page.find_element(By.CSS_SELECTOR, "#note button").click()
    wait_until(page, f"{note} === 'taken back'")
    WebDriverWait(page, 30).until(lambda _: off() > 3, "it is gone")
    assert json.loads(reviewed.get("/reviews/map").content)["features"] == []


@pytest.mark.slow
def test_an_added_scene_is_shown(page: webdriver.Chrome, server: Server) -> None:
    sharp(page)
    before = page.execute_script("return shown.tilecascade_revision")
    click(page, "menu")
    put(page, "key", KEY)
    fresh = server.log.parent / "fresh.tif"
    page.find_element(By.ID, "file").send_keys(str(fresh))
    text = "const t = document.getElementById('upload').textContent;"
    told = wait_until(page, text + "return t.startsWith('added') && t")
    assert "zooms 14 to 16" in told
    wait_until(page, f"return shown.tilecascade_revision !== '{before}'")
    sharp(page)
    broken = server.log.parent / "broken.tif"
    broken.write_bytes(b"no picture")
    page.find_element(By.ID, "file").send_keys(str(broken))
    wait_until(page, text + "return t && !t.startsWith('added')")


def test_everything_can_be_reached_by_keyboard(page: webdriver.Chrome) -> None:
    sharp(page)
    page.find_element(By.ID, "menu").send_keys(Keys.ENTER)
    assert page.find_element(By.ID, "panel").is_displayed()
    reached = set()
    for _ in range(40):
        ActionChains(page).send_keys(Keys.TAB).perform()
        reached.add(page.execute_script("return document.activeElement.id"))
    assert {"opacity", "compare", "states", "box", "view", "low", "high", "file", "key"} <= reached
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert not page.find_element(By.ID, "panel").is_displayed()


def test_on_a_phone_nothing_is_cut_off(server: Server) -> None:
    with browser(390, 780) as page:
        page.get(server.url)
        sharp(page)
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        click(page, "menu")
        panel = page.find_element(By.ID, "panel").rect
        assert (panel["x"], panel["width"]) == (0, 390)
        assert panel["y"] > 200, "the map stays in sight"
        small = page.execute_script(
            "return [...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 30).length"
        )
        assert small == 0
