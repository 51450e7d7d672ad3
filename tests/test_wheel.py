"""The wheel: built, installed into an environment of its own, and run from somewhere else."""

from __future__ import annotations

import os
import shutil
import site
import socket
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import httpx
import mercantile
import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "app", "model", "cache")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because building leaves folders beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in NEEDED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_one_package_with_everything(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"tilecascade"}
    for path in (p for room in ("app", "model", "cache") for p in (ROOT / room).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            assert f"tilecascade/{path.relative_to(ROOT)}" in names


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_serves_the_first_tile_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The packages that it depends on are lent from this environment: they are several GB."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=200, env=clean)
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    lent = tmp_path / "lent"
    lent.mkdir()
    for entry in Path(site.getsitepackages()[0]).iterdir():
        # of this project nothing: neither the editable install nor the finder that belongs to it
        if "tilecascade" not in entry.name and not (packages / entry.name).exists():
            (lent / entry.name).symlink_to(entry)
    (packages / "lent.pth").write_text(f"{lent}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(tmp_path / "env" / "bin" / "tilecascade"), "serve", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, env=clean | {"TILECASCADE_REDIS_URL": "none"})
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                if httpx.get(url + "/health").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        assert "version" in httpx.get(url + "/health").json()
        assert "tilecascade" in httpx.get(url + "/").text
        assert httpx.get(url + "/static/viewer/viewer.js").status_code == 200
        info = httpx.get(url + "/tilejson.json").json()
        place = mercantile.tile(info["center"][0], info["center"][1], 14)
        tile = httpx.get(f"{url}/tiles/14/{place.x}/{place.y}.png?wait=200", timeout=220)
        assert (tile.status_code, tile.headers["x-tile-state"]) == (200, "generated")
        assert tile.content.startswith(b"\x89PNG")
    finally:
        server.terminate()
        server.wait(60)
    for name in ("app", "model", "cache"):
        assert subprocess.run([python, "-c", f"import {name}"], cwd=tmp_path, capture_output=True).returncode == 1
