"""`tilecascade import`: tiles of an exported MBTiles or PMTiles file back into a cache.

Only a file whose tiles have the bytes that this cache would generate can be imported: it says which revision of a layer
it comes from, and the cache must have served that revision last. Other maps can be a layer's base map instead.
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import DataDir
from tilecascade.app.storage.archives import ARCHIVES, REVISION
from tilecascade.app.tiles.formats import PNG_START, is_whole
from tilecascade.cache.disk import DiskStore


def import_file(path: Path, data_dir: Path) -> tuple[int, int]:
    """Put a file's tiles into the cache at `data_dir`; returns how many were added, and how many were present already.

    Raises SettingsError with a sentence if the file is not such an export, or of another revision than the cache's.
    """
    if not path.is_file():
        raise SettingsError(f"{path} does not exist")
    if path.suffix not in ARCHIVES:
        raise SettingsError(f"{path} is neither .mbtiles nor .pmtiles")
    try:
        archive = ARCHIVES[path.suffix](path)
        metadata = archive.metadata()
    except Exception as error:  # the libraries raise whatever comes up
        raise SettingsError(f"{path} cannot be read: {error or type(error).__name__}") from None
    tiles_dir = DataDir(data_dir).tiles
    layer, revision = str(metadata.get("name", "")), str(metadata.get(REVISION, ""))
    if not revision:
        raise SettingsError(f"{path} is no export of tilecascade; as base_map of a layer its tiles can be used")
    link = tiles_dir / layer / revision
    if "/" in layer + revision or not link.is_symlink():
        raise SettingsError(
            f"{path} holds revision {revision} of layer {layer}, which this cache does not serve: it needs the same "
            "scenes, network and kind of machine"
        )
    store, version = DiskStore(tiles_dir, 1 << 62), link.readlink().name
    added = present = 0
    for tile, data in tqdm(archive.tiles(), unit="tile"):
        form = "png" if data.startswith(PNG_START) else "webp"
        key = f"{layer}/{version}/{tile.z}/{tile.x}/{tile.y}.{form}"
        if store.stat(key) is not None:
            present += 1
        elif is_whole(data):
            store.put(key, data)
            added += 1
    return added, present
