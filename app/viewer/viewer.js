"use strict";
const $ = (id) => document.getElementById(id);
const base = data.base;

// ---- the map: a layer that reads each tile's state and asks again for what is still being generated

const CascadeLayer = L.GridLayer.extend({
  createTile(coords, done) {
    const tile = L.DomUtil.create("div", "tile");
    const image = L.DomUtil.create("img", "", tile);
    const label = L.DomUtil.create("span", "state", tile);
    image.alt = "";
    const show = async () => {
      if (tile.gone) return;
      try {
        // this page asks again, so it need not wait for the finished tile
        const response = await fetch(L.Util.template(this.options.url, coords) + "&wait=2");
        const state = response.headers.get("X-Tile-State") || String(response.status);
        tile.dataset.state = label.textContent = state;
        label.className = "state " + state;
        if (response.status === 503 || response.status === 429) return void setTimeout(show, 2000);
        if (!response.ok) { label.remove(); return done(null, tile); }
        if (image.src) URL.revokeObjectURL(image.src);
        image.src = URL.createObjectURL(await response.blob());
        done(null, tile);
        if (state === "placeholder") setTimeout(show, 2000);
      } catch (error) { done(error, tile); }
    };
    show();
    return tile;
  },
});

const map = L.map("map", {zoomSnap: 1});
map.createPane("generated").style.zIndex = 250;
map.createPane("trust").style.zIndex = 300;
let shown = null, generated = null, imagery = null, trust = null;

function choose(layer) {
  shown = layer;
  for (const old of [generated, imagery, trust]) if (old) old.remove();
  const [west, south, east, north] = layer.bounds;
  const options = {minZoom: layer.minzoom, maxZoom: 22, maxNativeZoom: layer.maxzoom, bounds: [[south, west], [north, east]]};
  generated = new CascadeLayer({...options, pane: "generated", url: layer.tiles[0], attribution: layer.attribution});
  generated.on("tileunload", ({tile}) => { tile.gone = true; URL.revokeObjectURL(tile.firstChild.src); });
  trust = new CascadeLayer({...options, pane: "trust", opacity: 0.6, url: layer.confidence});
  imagery = L.tileLayer(layer.imagery, {...options, attribution: ""});
  generated.setOpacity($("opacity").value / 100).addTo(map);
  compare();
  show_trust();
  $("low").value = layer.minzoom;
  $("high").value = layer.maxzoom;
  links(layer);
}

function links(layer) {
  const lines = {
    "Leaflet, OpenLayers, QGIS (XYZ)": layer.tiles[0].split("?")[0],
    "MapLibre (TileJSON)": `${base}/tiles/${layer.name}/tilejson.json`,
    "QGIS, GDAL (WMTS)": `${base}/wmts/1.0.0/WMTSCapabilities.xml`,
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
  if (!on) {
    imagery.remove();
    pane.style.clipPath = "";
    return;
  }
  imagery.addTo(map);
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
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { stop_drawing(); open_panel(false); } });

// ---- where we look, in the address

function look() {
  const [zoom, latitude, longitude] = location.hash.slice(1).split("/").map(Number);
  if ([zoom, latitude, longitude].every(Number.isFinite) && location.hash) map.setView([latitude, longitude], zoom);
  else map.setView([shown.center[1], shown.center[0]], shown.center[2]);
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

// ---- adding imagery

$("file").onchange = () => {
  const file = $("file").files[0];
  if (!file) return;
  const request = new XMLHttpRequest();  // fetch cannot tell how far an upload is
  const query = new URLSearchParams({layer: shown.name, attribution: $("attribution").value});
  request.open("POST", `${base}/scenes?${query}`);
  request.setRequestHeader("X-API-Key", $("key").value);
  request.upload.onprogress = ({loaded, total}) => { $("upload").textContent = `sending: ${Math.round(100 * loaded / total)} %`; };
  request.onerror = () => { $("upload").textContent = "the server does not answer"; };
  request.onload = async () => {
    const answer = JSON.parse(request.responseText || "{}");
    $("file").value = "";
    if (request.status !== 201) { $("upload").textContent = answer.detail || `status ${request.status}`; return; }
    $("upload").textContent = `added; zooms ${answer.zooms.join(" to ")} ${answer.notes.join("; ")}`;
    const info = await ask(`/tiles/${shown.name}/tilejson.json`);
    const version = "?v=" + info.tilecascade_revision;
    choose({...info, imagery: shown.imagery.split("?")[0] + version, confidence: shown.confidence.split("?")[0] + version});
    const [west, south, east, north] = answer.bounds;
    map.fitBounds([[south, west], [north, east]]);
  };
  request.send(file);
};

// ---- begin

if (data.layers.length) {
  $("choices").replaceChildren(...data.layers.map((layer, index) => {
    const label = document.createElement("label"), radio = document.createElement("input");
    Object.assign(radio, {type: "radio", name: "layer", checked: index === 0, onchange: () => choose(layer)});
    label.append(radio, " ", layer.name);
    return label;
  }));
  choose(data.layers[0]);
  look();
  L.control.scale().addTo(map);
  map.attributionControl.setPrefix('<a href="https://leafletjs.com">Leaflet</a>');
  for (const option of new URLSearchParams(location.search).keys()) {
    if (["compare", "states", "trust"].includes(option)) { $(option).checked = true; $(option).onchange(); }
    if (option === "menu") open_panel(true);
  }
} else {
  setTimeout(() => location.reload(), 2000);
}
