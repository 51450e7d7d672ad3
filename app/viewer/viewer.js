"use strict";
const $ = (id) => document.getElementById(id);
const base = data.base;

// ---- tiles: each says in a header what it is. One that is not finished is asked for again when the server names it.

const ASK_AGAIN = 10000;  // ms after which an unfinished tile is asked for again though nobody has named it
const unfinished = new Map();  // tiles of the map on the screen that are not finished, by z/x/y
const batch = {total: 0, finished: 0, began: 0};

const CascadeLayer = L.GridLayer.extend({
  createTile(coords, done) {
    const tile = L.DomUtil.create("div", "tile waiting");
    if (this.options.told) L.DomUtil.create("span", "state", tile);
    tile.name = `${coords.z}/${coords.x}/${coords.y}`;
    tile.load = () => load(tile, L.Util.template(this.options.url, coords) + this.options.query, done);
    if (this.options.told) unfinished.set(tile.name, tile);
    tile.load();
    return tile;
  },
});

async function load(tile, url, done) {
  clearTimeout(tile.timer);
  if (tile.gone || tile.loading) { tile.named = tile.loading; return; }
  tile.loading = true;
  tile.named = false;
  try {
    const answer = await fetch(url);
    const state = answer.headers.get("X-Tile-State") || (answer.status === 204 ? "none" : String(answer.status));
    tile.dataset.state = state;
    const label = tile.querySelector(".state");
    if (label) Object.assign(label, {textContent: state === "none" ? "no imagery" : state, className: "state " + state});
    const later = state === "placeholder" || answer.status === 503 || answer.status === 429;
    // a preview of the imagery is of no use here: the imagery itself lies below
    if (answer.ok && state !== "none" && (!later || answer.headers.has("X-Tile-Ancestor"))) show(tile, await answer.blob());
    if (later) {
      count(tile);
      tile.timer = setTimeout(tile.load, state === "placeholder" ? ASK_AGAIN : 2000);
    } else finish(tile);
    done(null, tile);
  } catch (error) {
    tile.timer = setTimeout(tile.load, ASK_AGAIN);
    done(error, tile);
  }
  tile.loading = false;
  if (tile.named) tile.load();
}

function show(tile, picture) {
  const image = L.DomUtil.create("img", "", tile), url = URL.createObjectURL(picture);
  image.alt = "";
  image.onload = () => {
    URL.revokeObjectURL(url);
    image.classList.add("shown");
    for (const old of [...tile.querySelectorAll("img")].filter((other) => other !== image)) setTimeout(() => old.remove(), 400);
  };
  image.src = url;
}

// ---- how much is still to be generated

function count(tile) {
  if (tile.counted || !unfinished.has(tile.name)) return;
  if (!batch.total) batch.began = performance.now();
  tile.counted = true;
  batch.total += 1;
  tell();
}
function finish(tile) {
  tile.classList.remove("waiting");
  if (unfinished.get(tile.name) === tile) unfinished.delete(tile.name);
  if (tile.counted) { batch.finished += 1; tile.counted = false; }
  tell();
}
function forget(tile) {
  tile.gone = true;
  clearTimeout(tile.timer);
  if (unfinished.get(tile.name) === tile) unfinished.delete(tile.name);
  if (tile.counted) { batch.total -= 1; tile.counted = false; }
  tell();
}
function tell() {
  const left = batch.total - batch.finished;
  if (!left) batch.total = batch.finished = 0;
  const seconds = (performance.now() - batch.began) / 1000;
  const time = batch.finished > 1 ? `, about ${Math.ceil(seconds / batch.finished * left)} s` : "";
  $("work").hidden = !left;
  $("work").textContent = `generating: ${batch.finished} of ${batch.total} tiles are finished${time}`;
}
setInterval(tell, 1000);

const map = L.map("map", {zoomSnap: 1});
map.createPane("imagery").style.zIndex = 150;
map.createPane("generated").style.zIndex = 250;
map.createPane("trust").style.zIndex = 300;
let shown = null, generated = null, imagery = null, trust = null, events = null;

function choose(layer) {
  shown = layer;
  for (const old of [generated, imagery, trust]) if (old) old.remove();
  const [west, south, east, north] = layer.bounds;
  const options = {minZoom: layer.minzoom, maxZoom: 22, maxNativeZoom: layer.maxzoom, bounds: [[south, west], [north, east]]};
  const below = {...options, pane: "imagery", query: "&missing=204", url: layer.imagery};
  imagery = new CascadeLayer(below).addTo(map);
  generated = new CascadeLayer({...options, pane: "generated", url: layer.tiles[0], query: "&wait=0&missing=204", told: true,
    attribution: layer.attribution});
  trust = new CascadeLayer({...options, pane: "trust", opacity: 0.6, url: layer.confidence, query: "&wait=60&missing=204"});
  for (const each of [imagery, generated, trust]) each.on("tileunload", ({tile}) => forget(tile));
  if (events) events.close();
  events = new EventSource(layer.events);
  // what was finished before the connection stood has not been named
  events.onopen = () => { for (const tile of [...unfinished.values()]) if (tile.counted && !tile.loading) tile.load(); };
  events.addEventListener("tile", ({data: name}) => { if (unfinished.has(name)) unfinished.get(name).load(); });
  generated.setOpacity($("opacity").value / 100).addTo(map);
  compare();
  show_trust();
  $("low").value = layer.root;
  $("high").value = layer.maxzoom;
  links(layer);
  document.dispatchEvent(new Event("layer"));
}

// The layer as it is after a change.
async function renew() {
  const info = await ask(`/tiles/${shown.name}/tilejson.json`);
  const version = "?v=" + info.tilecascade_revision;
  const pinned = (url) => url.split("?")[0] + version;
  choose({...shown, ...info, imagery: pinned(shown.imagery), confidence: pinned(shown.confidence), query: version});
}

// The whole layer, or what the screen can hold of it at its first zoom.
function fit(layer) {
  const [west, south, east, north] = layer.bounds, bounds = L.latLngBounds([[south, west], [north, east]]);
  // never below the zoom where the cascade begins, fit or not: coarser tiles need many of its
  const zoom = Math.max(layer.root, Math.min(map.getBoundsZoom(bounds), layer.maxzoom));
  const size = map.project(bounds.getSouthEast(), zoom).subtract(map.project(bounds.getNorthWest(), zoom));
  const fits = size.x <= map.getSize().x && size.y <= map.getSize().y;
  map.setView(fits ? bounds.getCenter() : [layer.center[1], layer.center[0]], zoom);
}

function links(layer) {
  const lines = {
    "Leaflet, OpenLayers, QGIS (XYZ)": layer.tiles[0].split("?")[0],
    "MapLibre (TileJSON)": `${base}/tiles/${layer.name}/tilejson.json`,
    "QGIS, GDAL (WMTS)": `${base}/wmts/1.0.0/WMTSCapabilities.xml`,
    ...(layer.objects ? {"Reviews (GeoJSON)": `${base}/reviews/${layer.name}`} : {}),
  };
  $("links").replaceChildren(...Object.entries(lines).flatMap(([name, url]) => {
    const term = document.createElement("dt"), place = document.createElement("dd");
    const code = document.createElement("code"), copy = document.createElement("button");
    term.textContent = name;
    code.textContent = code.title = url;
    copy.textContent = "Copy";
    copy.onclick = async () => {
      try { await navigator.clipboard.writeText(url); copy.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(code); }  // no clipboard without https: select it instead
    };
    place.append(code, copy);
    return [term, place];
  }));
}

// ---- comparing with the imagery: the pane of generated tiles is cut off left of the divider

function compare() {
  const on = $("compare").checked, pane = map.getPane("generated");
  $("swipe").hidden = $("divider").hidden = !on;
  pane.style.clipPath = "";
  if (!on) return;
  const size = map.getSize(), thumb = 36;
  const at = thumb / 2 + (size.x - thumb) * $("swipe").value / 1000;  // where the slider's handle is
  const corner = map.containerPointToLayerPoint([at, 0]), far = map.containerPointToLayerPoint(size);
  $("divider").style.left = at + "px";
  // a pane has no size of its own, so its clip is given in layer coordinates
  pane.style.clipPath = `polygon(${[[corner.x, corner.y], [far.x, corner.y], [far.x, far.y], [corner.x, far.y]]
    .map(([x, y]) => `${x}px ${y}px`).join(",")})`;
}
$("compare").onchange = () => { if ($("swipe").value === "0") $("swipe").value = 500; compare(); };
$("swipe").oninput = compare;
map.on("move zoomend resize", () => { if ($("compare").checked) compare(); });

function show_trust() {
  $("scale").hidden = !$("trust").checked;
  if ($("trust").checked) trust.addTo(map); else trust.remove();
}
$("trust").onchange = show_trust;
$("opacity").oninput = () => generated.setOpacity($("opacity").value / 100);
$("states").onchange = () => {
  $("map").classList.toggle("states", $("states").checked);
  $("legend").hidden = !$("states").checked;
};
$("menu").onclick = () => open_panel($("panel").hidden);
function open_panel(open) {
  $("panel").hidden = !open;
  $("menu").setAttribute("aria-expanded", open);
  $("menu").textContent = open ? "Close" : "Menu";
}
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { stop_drawing(); stop_tracing(); open_panel(false); } });

// ---- where we look, in the address

function look() {
  const [zoom, latitude, longitude] = location.hash.slice(1).split("/").map(Number);
  if ([zoom, latitude, longitude].every(Number.isFinite) && location.hash) map.setView([latitude, longitude], zoom);
  else fit(shown);
}
map.on("moveend", () => {
  const {lat, lng} = map.getCenter();
  history.replaceState(null, "", `#${map.getZoom()}/${lat.toFixed(5)}/${lng.toFixed(5)}`);
});
addEventListener("hashchange", look);

// ---- asking the server to do something

async function ask(path, options = {}) {
  const headers = {...options.headers};
  if ($("key").value) headers["X-API-Key"] = $("key").value;
  const response = await fetch(base + path, {...options, headers});
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.detail || `status ${response.status}`);
  return body;
}
$("key").value = sessionStorage.getItem("tilecascade-key") || "";
$("key").onchange = () => { sessionStorage.setItem("tilecascade-key", $("key").value); estimate(); };

// ---- prefetch

let area = null, rectangle = null, running = null, first = null;

function take(bounds) {
  area = bounds;
  if (rectangle) rectangle.remove();
  rectangle = L.rectangle(bounds, {color: "#1a6fd6", weight: 2, fillOpacity: 0.08, interactive: false}).addTo(map);
  estimate();
}
function stop_drawing() {
  first = null;
  $("map").classList.remove("selecting");
  map.dragging.enable();
}
$("view").onclick = () => take(map.getBounds());
$("box").onclick = () => {
  $("map").classList.add("selecting");
  map.dragging.disable();
};
const place = (event) => map.mouseEventToLatLng(event);
$("map").addEventListener("pointerdown", (event) => {
  if ($("map").classList.contains("selecting")) first = place(event);
}, true);
$("map").addEventListener("pointermove", (event) => {
  if (first) take(L.latLngBounds(first, place(event)));
}, true);
$("map").addEventListener("pointerup", () => { if (first) stop_drawing(); }, true);

function wanted() {
  const box = [area.getWest(), area.getSouth(), area.getEast(), area.getNorth()];
  return {layer: shown.name, bbox: box, zooms: [Number($("low").value), Number($("high").value)]};
}
function post(path, body) {
  return ask(path, {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json"}});
}
let estimates = 0;
async function estimate() {
  $("start").disabled = true;
  if (!area) return;
  const mine = ++estimates;
  await new Promise((resolve) => setTimeout(resolve, 200));
  if (mine !== estimates) return;
  try {
    const answer = await post("/jobs", {...wanted(), dry_run: true});
    const time = answer.seconds === null ? "" : `, about ${Math.ceil(answer.seconds / 60)} min`;
    const room = answer.fits ? "" : "; more than the server keeps";
    $("estimate").textContent =
      `${answer.tiles} tiles, ${answer.stored} stored already, ${(answer.bytes / 1e6).toFixed(1)} MB more${time}${room}`;
    $("start").disabled = Boolean(running);
  } catch (error) { $("estimate").textContent = error.message; }
}
$("low").onchange = $("high").onchange = estimate;
$("start").onclick = async () => {
  $("start").disabled = true;
  try { follow(await post("/jobs", wanted())); }
  catch (error) { $("job").textContent = error.message; }
};
$("stop").onclick = () => ask(`/jobs/${running}`, {method: "DELETE"}).catch((error) => { $("job").textContent = error.message; });
function follow(job) {
  running = job.id;
  $("progress").hidden = $("stop").hidden = false;
  const events = new EventSource(`${base}/jobs/${job.id}/events`);
  const show = (event) => {
    const now = JSON.parse(event.data);
    $("progress").value = (now.finished + now.without_imagery + now.failed) / Math.max(1, now.total);
    $("job").textContent = `${now.state}: ${now.finished} of ${now.total} tiles finished, ${now.failed} failed`;
    if (event.type === "progress") return;
    events.close();
    running = null;
    $("stop").hidden = true;
    generated.redraw();
    estimate();
  };
  for (const name of ["progress", "done", "failed", "cancelled"]) events.addEventListener(name, show);
}

// ---- adding imagery: a file that is chosen, or dropped on the map

function upload(file) {
  if (!file) return;
  open_panel(true);
  $("upload").scrollIntoView({block: "nearest"});
  if (!$("key").value) { $("upload").textContent = "the key is needed first: see below"; $("key").focus(); return; }
  const request = new XMLHttpRequest();  // fetch cannot tell how far an upload is
  const query = new URLSearchParams({layer: shown.name, attribution: $("attribution").value});
  request.open("POST", `${base}/scenes?${query}`);
  request.setRequestHeader("X-API-Key", $("key").value);
  request.upload.onprogress = ({loaded, total}) => {
    $("upload").textContent = loaded < total ? `sending ${file.name}: ${Math.round(100 * loaded / total)} %` : "reading it";
  };
  request.onerror = () => { $("upload").textContent = "the server does not answer"; };
  request.onload = async () => {
    const answer = JSON.parse(request.responseText || "{}");
    $("file").value = "";
    if (request.status !== 201) { $("upload").textContent = answer.detail || `status ${request.status}`; return; }
    $("upload").textContent = `added; zooms ${answer.zooms.join(" to ")} ${answer.notes.join("; ")}`;
    await renew();
    const [west, south, east, north] = answer.bounds;
    map.fitBounds([[south, west], [north, east]]);
  };
  request.send(file);
}
$("file").onchange = () => upload($("file").files[0]);
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  upload(event.dataTransfer.files[0]);
});

// ---- begin

if (data.layers.length) {
  const asked = new URLSearchParams(location.search).get("layer");
  const first_shown = data.layers.find(({name}) => name === asked) || data.layers[0];
  $("choices").replaceChildren(...data.layers.map((layer) => {
    const label = document.createElement("label"), radio = document.createElement("input");
    const show = () => { choose(layer); if (!map.getBounds().intersects(generated.options.bounds)) fit(layer); };
    Object.assign(radio, {type: "radio", name: "layer", checked: layer === first_shown, onchange: show});
    label.append(radio, " ", layer.name);
    return label;
  }));
  choose(first_shown);
  look();
  // on a narrow screen the foot belongs to the attribution
  L.control.scale({position: innerWidth <= 600 ? "topleft" : "bottomleft"}).addTo(map);
  map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
  for (const option of new URLSearchParams(location.search).keys()) {
    if (["compare", "states", "trust"].includes(option)) { $(option).checked = true; $(option).onchange(); }
    if (option === "menu") open_panel(true);
  }
} else {
  setTimeout(() => location.reload(), 2000);
}
