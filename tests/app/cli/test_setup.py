"""Setting a server up: settings from command line, environment and file; init, doctor, info; help without a key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.conftest import SceneMaker
from tests.program import Server, free_port, run_cli
from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import LayerSettings, Settings, load_configuration, load_settings
from tilecascade.app.tools.configuration import example, reference

ROOT = Path(__file__).resolve().parents[3]


def test_the_reference_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), "make it anew, see its second paragraph"
    for field in (*Settings.model_fields.values(), *LayerSettings.model_fields.values()):
        assert field.description


@pytest.mark.parametrize(("text", "size"), [("20GiB", 20 << 30), ("500MB", 500_000_000), ("1000", 1000)])
def test_sizes_have_units(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILECASCADE_DISK_BYTES", text)
    assert load_settings().disk_bytes == size
    monkeypatch.setenv("TILECASCADE_DISK_BYTES", "much")
    with pytest.raises(SettingsError, match="disk_bytes"):
        load_settings()


def test_command_line_environment_and_file_count_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "layers.toml"
    file.write_text(
        '[server]\ndata_dir = "state"\nport = 1\nworkers = 2\ndisk_bytes = "1GiB"\n'
        '[[layer]]\nscenes = ["a.tif"]\nbase_map = "top.mbtiles"\n'
    )
    monkeypatch.setenv("TILECASCADE_WORKERS", "3")
    settings, layers = load_configuration(layers_file=file, port=4, host=None)
    assert (settings.port, settings.workers, settings.disk_bytes) == (4, 3, 1 << 30)
    assert settings.data_dir == tmp_path / "state"
    assert layers[0].scenes == [tmp_path / "a.tif"]
    assert layers[0].base_map == str(tmp_path / "top.mbtiles")
    assert load_configuration()[1] == []
    for wrong, words in (
        ("[serve]\n", "not serve"),
        ("[server]\nprot = 1\n[[layer]]\ncountry = 1\n", "prot"),
        ("[server]\n", "no .*layer"),
    ):
        file.write_text(wrong)
        with pytest.raises(SettingsError, match=words):
            load_configuration(layers_file=file)


def test_init_writes_a_file_that_can_be_served_and_never_over_another(tmp_path: Path) -> None:
    file = tmp_path / "layers.toml"
    done = run_cli("init", str(file))
    assert done.returncode == 0, done.stderr
    settings, layers = load_configuration(layers_file=file)
    assert settings == load_settings(layers_file=file)
    assert layers == [LayerSettings(country=1)]
    # every line that is a comment only because it is the default is valid TOML of that setting
    text = re.sub(r"^# (\w+ = (?!\.\.\.).*)$", r"\1", example(file), flags=re.MULTILINE).replace("country = 1\n", "")
    given = tomllib.loads(text)
    file.write_text(text)
    spelt = load_configuration(layers_file=file)[0]
    assert spelt.data_dir == tmp_path / "tilecascade-data"
    assert spelt.model_copy(update={"data_dir": settings.data_dir}) == settings
    assert given["server"]["disk_bytes"] == "20GiB"
    again = run_cli("init", str(file))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert file.read_text() == text


@pytest.mark.slow
def test_doctor_says_what_would_happen(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    env = {"TILECASCADE_WEIGHTS": str(tiny_weights), "TILECASCADE_REDIS_URL": "redis://127.0.0.1:1"}
    port = str(free_port())
    arguments = ["--data-dir", str(tmp_path / "data"), "--port", port]
    done = run_cli("doctor", str(make_scene()), *arguments, env=env)
    assert done.returncode == 0, done.stdout
    levels = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert levels["redis"] == "warning"
    assert {levels[subject] for subject in ("program", "device", "weights", "address", "scene", "layer")} == {"ok"}
    assert "zooms 14-16" in done.stdout
    broken = run_cli("doctor", str(tmp_path / "none.tif"), *arguments, env=env)
    assert broken.returncode == 1
    assert "problem  scene" in broken.stdout
    assert "Traceback" not in broken.stdout + broken.stderr
    worse = run_cli("doctor", *arguments, env=env | {"TILECASCADE_WEIGHTS": str(tmp_path / "none")})
    assert worse.returncode == 1
    assert "problem  weights" in worse.stdout


@pytest.mark.slow
def test_info_gives_boxes_that_can_be_pasted(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    server = Server(make_scene(), tiny_weights, tmp_path / "data")
    try:
        told = run_cli("info", "--url", server.url)
        assert told.returncode == 0, told.stderr
        command = next(line for line in told.stdout.splitlines() if "tilecascade export" in line)
        arguments = command[command.index("tilecascade export") :].split()[1:]
        arguments[arguments.index("--out") + 1] = str(tmp_path / "area.mbtiles")
        done = run_cli(*arguments, "--url", server.url)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "area.mbtiles").stat().st_size > 0
    finally:
        server.stop()
    gone = run_cli("info", "--url", server.url)
    assert gone.returncode == 2
    assert "no server answers" in gone.stderr


COMMANDS = """
    serve, prefetch, jobs, jobs cancel, scenes, scenes add, scenes order, export, import, clean, init, doctor, info,
    evaluate, evaluate pairs, calibrate, dataset, dataset country, train
"""


@pytest.mark.parametrize("command", COMMANDS.replace("\n", " ").split(","))
def test_help_needs_nothing(command: str) -> None:
    done = run_cli(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage")
