"""`tilecascade dataset captions`: what pairs of imagery and map show, in words; and checking captions of others.

One item for each pair, in the layout of AAAAD (scene, relation, element) with a prompt in the form of MMM-RS. They are
computed from the map, so what they say is there.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tilecascade.app.errors import SettingsError
from tilecascade.app.storage.atomic import write_atomically
from tilecascade.model.cascade import metres_per_pixel
from tilecascade.model.data.pairs import read_image
from tilecascade.model.text.captions import BUDGET, CaptionError, from_dict, parse
from tilecascade.model.text.describe import describe
from tilecascade.model.text.prompts import Prompt, gsd_level, parse_prompt

STYLES = ("", "osm_own", "osm_carto_labels")
"""Styles of maps whose colours are those of the default palette."""


def write_captions(folder: Path, out: Path) -> Counter[str]:
    """Write the captions of a folder's pairs; returns how many there are of each scene, and skipped ones under "".

    Raises SettingsError.
    """
    manifest = folder / "manifest.csv"
    try:
        with manifest.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    except OSError:
        raise SettingsError(f"{folder} holds no manifest.csv; give the folder of some pairs") from None
    items, counts = [], Counter[str]()
    for row in tqdm(rows, unit="pair", mininterval=1):
        if row.get("style", "") not in STYLES:
            counts[""] += 1  # its colours mean something else
            continue
        try:
            caption = describe(read_image(folder / row["map"])).fitted()
        except (OSError, KeyError) as error:
            raise SettingsError(f"{manifest}: the map of {row.get('id', 'a pair')} cannot be read: {error}") from None
        counts[caption.scene] += 1
        metres = metres_per_pixel(int(row["zoom"]), float(row["y"] or 2 ** (int(row["zoom"]) - 1)))
        others = [element for element in caption.elements if element != caption.scene][:3]
        content = f"a satellite image shows {caption.scene}" + (f" with {', '.join(others)}" if others else "")
        prompt = Prompt(gsd_level(metres), ", ".join([content, *caption.relations[:1]]))
        items.append({"image": row["rs"], "map": row["map"], **caption.to_dict(), "prompt": prompt.text()})
    write_atomically(out, (json.dumps(items, indent=1) + "\n").encode())
    return counts


def check_captions(file: Path, budget: int = BUDGET) -> int:
    """How many captions and prompts a JSON file holds, all of which can be used.

    A list of objects with scene, relation (or some to choose from) and element (as AAAAD's file), with a prompt (as
    MMM-RS's), or of captions and prompts as texts; or an object of such. Raises SettingsError naming the first item
    that cannot be used, and why.
    """
    try:
        data = json.loads(file.read_text())
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{file} is no JSON: {error}") from None
    count = 0
    for place, item in _items(data):
        try:
            if isinstance(item, str) and item.lstrip().startswith("scene:"):
                parse(item).check(budget)
            elif isinstance(item, str):
                parse_prompt(item)
            elif isinstance(item, dict) and ("scene" in item or "prompt" not in item):
                from_dict(item).check(budget)
            elif isinstance(item, dict):
                parse_prompt(str(item["prompt"]))
            else:
                raise CaptionError("a caption is an object, and a prompt a text")
        except CaptionError as error:
            raise SettingsError(f"{file}, item {place}: {error}") from None
        count += 1
    return count


def _items(data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict) and "scene" not in data and "prompt" not in data:
        yield from ((str(key), item) for key, item in data.items())
    else:
        yield from ((str(place), item) for place, item in enumerate(data if isinstance(data, list) else [data], 1))
