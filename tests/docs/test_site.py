"""The documentation builds, and says what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fastapi import FastAPI

from tilecascade.app.api.app import ROUTES

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "site" / "model-card.html").read_text()
    assert "CC BY-NC" in card


def test_the_reference_names_every_route() -> None:
    app = FastAPI()
    for routes in ROUTES:
        app.include_router(routes.router)
    text = (ROOT / "docs" / "api.md").read_text()
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in text, (method, path)


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]
