// Shows at once what tilecascade has of each tile, and replaces it when the server names the tile as finished.
//
//   Leaflet      tilecascade.leaflet(url, options).addTo(map)
//   OpenLayers   map.addLayer(tilecascade.openlayers(url, options))
//   MapLibre     tilecascade.maplibre(map, id, url, options)      when the map has loaded
//
// url: http://server/tiles/{z}/{x}/{y}.png. Without this script the same URL works, too: each request then waits for its
// tile, and nothing is shown before. The map library's own options are handed on.
"use strict";
const tilecascade = (() => {
  const AGAIN = 15000;  // ms after which an unfinished tile is asked for again though nobody has named it
  const address = (url, wait) => url + (url.includes("?") ? "&" : "?") + "wait=" + wait;

  // Calls `retry` for unfinished tiles, by "z/x/y", when they are finished. A tile counts as unfinished until `remove`.
  function follow(url) {
    const unfinished = new Map();
    const again = (name) => { const retry = unfinished.get(name); if (retry) retry(); };
    const events = new EventSource(url.replace(/\{z\}.*/, "events"));
    const all = () => { for (const name of [...unfinished.keys()]) again(name); };
    events.onopen = all;  // what was finished before the connection stood has not been named
    events.addEventListener("tile", ({data}) => again(data));
    setInterval(all, AGAIN);
    return {add: (name, retry) => unfinished.set(name, retry), remove: (name) => unfinished.delete(name)};
  }

  // The answer of the server as it is now, and whether the tile is finished.
  async function get(url) {
    const answer = await fetch(address(url, 0));
    if (answer.status === 204 || answer.status === 404) return {finished: true, picture: null};
    if (!answer.ok) return {finished: false, picture: null};
    return {finished: answer.headers.get("X-Tile-State") !== "placeholder", picture: await answer.blob()};
  }

  // Loads a tile into an image, now and again until it is finished.
  async function load(image, name, url, following, changed) {
    const {finished, picture} = await get(url).catch(() => ({finished: false, picture: null}));
    if (finished) following.remove(name);
    if (picture) {
      image.onload = () => { URL.revokeObjectURL(image.src); changed(); };
      image.src = URL.createObjectURL(picture);
    } else if (finished) changed();
  }

  function leaflet(url, options) {
    const following = follow(url);
    const name = ({z, x, y}) => `${z}/${x}/${y}`;
    const Layer = L.TileLayer.extend({
      createTile(coords, done) {
        const image = document.createElement("img");
        image.alt = "";
        const retry = () => load(image, name(coords), this.getTileUrl(coords), following, () => done(null, image));
        following.add(name(coords), retry);
        retry();
        return image;
      },
    });
    return new Layer(url, options).on("tileunload", ({coords}) => following.remove(name(coords)));
  }

  function openlayers(url, options) {
    const following = follow(url);
    const source = new ol.source.XYZ({...options, url, transition: 0}), layer = new ol.layer.Tile({source});
    source.setTileLoadFunction((tile, src) => {
      const name = tile.getTileCoord().join("/");
      const retry = () => load(tile.getImage(), name, src, following, () => layer.changed());
      following.add(name, retry);
      retry();
    });
    return layer;
  }

  // Two layers, because MapLibre does not ask for a tile twice: what there is, and above it the finished tiles.
  function maplibre(map, id, url, options) {
    const following = follow(url), protocol = "tilecascade-" + id;
    maplibregl.addProtocol(protocol, async ({url: asked}) => {
      const src = asked.replace(protocol + "://", ""), name = src.match(/(\d+\/\d+\/\d+)(@2x)?\.\w+/)[1];
      for (;;) {
        const named = new Promise((resolve) => following.add(name, resolve));
        const {finished, picture} = await get(src);
        if (finished) following.remove(name);
        if (finished) return {data: picture ? await picture.arrayBuffer() : null};
        await named;
      }
    });
    const source = {type: "raster", tileSize: 256, ...options};
    map.addSource(id + "-now", {...source, tiles: [address(url, 0)]});
    map.addSource(id, {...source, tiles: [protocol + "://" + url]});
    map.addLayer({id: id + "-now", type: "raster", source: id + "-now"});
    map.addLayer({id, type: "raster", source: id});
  }

  return {leaflet, openlayers, maplibre};
})();
