"use strict";
// What is under a click: the object of the map, how sure the network is of it, and from which imagery.

const NEAR = 4;  // pixels from a road's edge that still count as the road
let outlined = null;

map.on("click", async ({latlng}) => {
  if ($("map").classList.contains("selecting") || tracing || !shown.objects) return;
  const zoom = Math.max(shown.root, Math.min(map.getZoom(), shown.maxzoom));
  const at = map.project(latlng, zoom);
  const place = `${zoom}/${Math.floor(at.x / 256)}/${Math.floor(at.y / 256)}`;
  if (outlined) outlined.remove();
  const popup = L.popup({className: "object"}).setLatLng(latlng).setContent("looking …").openOn(map);
  const answer = await fetch(`${base}/features/${shown.name}/${place}.geojson${shown.query}&wait=60&missing=204`);
  if (answer.status !== 200) { popup.setContent(answer.status === 204 ? "no imagery here" : "not known now; try again"); return; }
  const found = under(latlng, (await answer.json()).features, zoom);
  if (!found) { popup.setContent(told("Nothing is mapped here.", buttons(null, zoom))); return; }
  popup.setContent(told(...words(found.properties), buttons(found, zoom)));
  outlined = L.geoJSON(found, {interactive: false, style: {color: "#1a6fd6", weight: 3, fillOpacity: 0.15}}).addTo(map);
  popup.on("remove", () => { if (outlined) outlined.remove(); });
});

// The object that is drawn topmost at a place: a building, else a road, else the ground.
function under(place, features, zoom) {
  const point = map.project(place, zoom);
  const pixels = (ring) => ring.map(([x, y]) => map.project([y, x], zoom));
  const inside = (rings) => rings.reduce((odd, ring) => odd !== encloses(point, pixels(ring)), false);
  const metres = 40075016.7 * Math.cos(place.lat * Math.PI / 180) / (256 * 2 ** zoom);
  const on = ({properties, geometry}) => {
    if (properties.layer !== "road") return inside(geometry.coordinates);
    const line = pixels(geometry.coordinates), reach = properties.width_m / metres / 2 + NEAR;
    return line.slice(1).some((end, i) => L.LineUtil.pointToSegmentDistance(point, line[i], end) <= reach);
  };
  for (const layer of ["building", "road", "landcover"]) {
    const found = features.find((each) => each.properties.layer === layer && on(each));
    if (found) return found;
  }
  return null;
}

function encloses(point, ring) {
  let odd = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [a, b] = [ring[i], ring[j]];
    if ((a.y > point.y) !== (b.y > point.y) && point.x < (b.x - a.x) * (point.y - a.y) / (b.y - a.y) + a.x) odd = !odd;
  }
  return odd;
}

function words({layer, class: kind, confidence, width_m, captured, reviewed}) {
  const name = document.createElement("b"), more = document.createElement("p");
  name.textContent = layer === "road" ? `${kind} road, about ${Math.round(width_m)} m wide` : kind;
  const time = captured ? `, from imagery of ${captured.slice(0, 10)}` : "";
  more.textContent = reviewed ? "Somebody has looked at the imagery and says so." :
    `The network holds it likely to ${Math.round(100 * confidence)} %${time}. Generated, not surveyed.`;
  return [name, more];
}

function told(...parts) {
  const box = document.createElement("div");
  box.append(...parts);
  return box;
}
