"""Prompts in the form of MMM-RS: {level of resolution}, {weather}, {what is there}, {satellite}."""

from __future__ import annotations

from dataclasses import dataclass

from tilecascade.model.imagery.weather import KINDS, LIGHTS
from tilecascade.model.text.captions import CaptionError

LEVELS: tuple[tuple[float, str], ...] = (
    (0.5, "Ultra-high precision resolution"),
    (1.0, "High precision resolution"),
    (4.0, "Ordinary precision resolution"),
    (30.0, "Low precision resolution"),
    (float("inf"), "Ultra-low precision resolution"),
)
"""Up to how many metres per pixel each level goes. The words are the paper's. Its limits are not published and its
examples contradict each other; these are ours, near what its counts imply."""

SATELLITES = ("Google Earth", "Sentinel-1", "Sentinel-2", "Gaofen-1", "Gaofen-2", "Landsat-8", "WorldView-3", "drone")


def gsd_level(metres: float) -> str:
    """The level of a resolution in metres per pixel. Raises CaptionError unless it is positive."""
    if not metres > 0:
        raise CaptionError(f"metres per pixel are positive, not {metres}")
    return next(level for most, level in LEVELS if metres <= most)


@dataclass(frozen=True)
class Prompt:
    """level: one of LEVELS. weather: one of KINDS or LIGHTS of `imagery.weather`; empty for a clear sky. satellite: one
    of SATELLITES, or empty."""

    level: str
    content: str
    weather: str = ""
    satellite: str = ""

    def text(self) -> str:
        """The prompt in one line; what is empty is left out."""
        return ", ".join(part for part in (self.level, self.weather, self.content, self.satellite) if part)


def parse_prompt(text: str, level_needed: bool = True) -> Prompt:
    """Inverse of `Prompt.text`, and a reader of MMM-RS's own. Raises CaptionError.

    level_needed: whether there has to be a level and something that is there; otherwise both may be empty.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    levels = {level.lower(): level for _, level in LEVELS}
    level = levels.get(parts[0].lower(), "") if parts else ""
    if level_needed and not level:
        known = ", ".join(level for _, level in LEVELS)
        raise CaptionError(f"a prompt begins with its level of resolution: one of {known}")
    parts = parts[1:] if level else parts
    weather = satellite = ""
    if parts and parts[0].lower().replace("-", " ") in (*KINDS, *LIGHTS):
        weather, parts = parts[0].lower().replace("-", " "), parts[1:]
    satellites = {name.lower(): name for name in SATELLITES}
    if parts and parts[-1].lower() in satellites:
        satellite, parts = satellites[parts[-1].lower()], parts[:-1]
    if level_needed and not parts:
        raise CaptionError("a prompt says what is there, such as: a satellite image shows a park in the city")
    return Prompt(level, ", ".join(parts), weather, satellite)
