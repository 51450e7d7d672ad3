"""Reviews of a running server as training pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from click.testing import CliRunner

from tests.conftest import picture, place_bounds, write_scene
from tests.program import Server
from tests.support import drawn, house
from tilecascade.app.cli.main import main
from tilecascade.model.data.labels import ANYTHING, READERS
from tilecascade.model.data.pairs import read_pairs
from tilecascade.model.palette import PALETTE
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network

KEY = "a key of the tests"


def test_what_was_reviewed_becomes_pairs_and_the_rest_says_nothing(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    save_network(random_network(replace(tiny(), finish="cartographic")), tmp_path / "weights")
    server = Server(scene, tmp_path / "weights", tmp_path / "data", {"TILECASCADE_API_KEY": KEY})
    command = ["dataset", "reviews", "--url", server.url, "--zooms", "15-16", "--out", str(tmp_path / "pairs")]
    try:
        said = httpx.post(
            f"{server.url}/reviews/map", json=drawn(house(0.1, 0.1)), headers={"X-API-Key": KEY}, timeout=60
        )
        assert said.status_code == 201, said.text
        for _ in range(2):  # written anew, listed once
            result = CliRunner().invoke(main, command)
            assert result.exit_code == 0, result.output
            assert result.output == "2 pairs of 1 reviews\n"
        refused = CliRunner().invoke(main, [*command[:-3], "3-4", *command[-2:]])
        assert refused.exit_code == 2
        assert "zooms" in refused.output
    finally:
        server.stop()
    pairs = read_pairs(tmp_path / "pairs", "reviews", "train", reading="reviewed")
    assert [pair.zoom for pair in pairs] == [15, 16]
    building = [name for name, *_ in PALETTE].index("building")
    for pair, least in zip(pairs, (60, 300), strict=True):
        labels = READERS[pair.reading](pair.map)
        assert least < (labels == building).sum() < 24 * 24
        assert 0.9 < (labels == ANYTHING).mean() < 1
        assert np.ptp(pair.imagery) > 50


def test_a_server_without_reviews_gives_no_pairs(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dataset", "reviews", "--url", "http://127.0.0.1:1", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "no server answers" in result.output
    assert not list(tmp_path.iterdir()), "nothing is left"
