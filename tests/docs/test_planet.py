"""The notebook of planet scale runs, and the page says what it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_has_the_notebooks_figures() -> None:
    cells = json.loads((DOCS / "planet.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    found = {name: list(row.values()) for name, row in names["rows"].items()}
    assert found["a province, 20,000 km2"][:3] == pytest.approx([2.5e6, 2.2, 0.59], rel=0.03)
    assert found["a country, 350,000 km2"][:3] == pytest.approx([4.5e7, 39, 10.3], rel=0.03)
    assert found["all land"][:3] == pytest.approx([2.7e10, 64 * 365, 260 * 24], rel=0.03)
    text = (DOCS / "scale.md").read_text()
    for said in ("2.5e6", "2.2 days", "0.6 hours", "4.5e7", "39 days", "10 hours", "2.7e10", "260 days"):
        assert said in text, said
