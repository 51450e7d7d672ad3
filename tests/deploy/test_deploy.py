"""The files of deploy/ and the Dockerfile under the usual linters; no container engine is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {
    "try_files_is_evil_too": "wants open_file_cache, which would go on serving purged tiles",
    "host_spoofing": "the Host header is only written back into this client's own addresses; $host loses the port",
}


def lint(*command: str) -> None:
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        pytest.skip(f"no {command[0]} in this environment")
    done = subprocess.run([str(program), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile() -> None:
    lint("hadolint", "Dockerfile")


def test_compose() -> None:
    rules = "{line-length: {max: 160}, document-start: disable, comments: {min-spaces-from-content: 1}}"
    lint("yamllint", "--strict", "-d", f"{{extends: default, rules: {rules}}}", "deploy/compose.yaml")


def test_nginx() -> None:
    lint("gixy", "-ll", "--skips", ",".join(SKIPPED), "deploy/nginx.conf")


def test_systemd_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    text = (ROOT / "deploy" / "tilecascade.service").read_text()
    # the program is not installed where the unit expects it
    unit = tmp_path / "tilecascade.service"
    unit.write_text(text.replace("/opt/tilecascade/.venv/bin/tilecascade", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert str(unit) not in done.stderr, done.stderr


def test_the_image_has_the_versions_that_are_tested() -> None:
    def versions(name: str) -> dict[str, str]:
        lines = [line.split(" ")[0] for line in (ROOT / "deploy" / name).read_text().splitlines() if line[0] != "#"]
        return {package.lower().replace("_", "-"): version for package, version in (line.split("==") for line in lines)}

    tested, locked = versions("constraints.txt"), versions("requirements.lock")
    assert {name: tested.get(name.replace("_", "-")) for name in locked} == locked
    assert len(locked) > 50
    assert all(" --hash=sha256:" in line for line in (ROOT / "deploy/requirements.lock").read_text().splitlines()[1:])
