"""A tiny network of imagery with random weights."""

from __future__ import annotations

import pytest

from tests.support import tiny_octaves
from tilecascade.model.imagery.network import OctaveNet


@pytest.fixture(scope="module")
def net() -> OctaveNet:
    return tiny_octaves()
