"use strict";
// Saying of an object under a click that it is there, that it is not, or how it looks. Every tile then shows it so.

let tracing = null;  // what is being drawn: its outline, how many corners it takes, and what to do with them

function buttons(found, zoom) {
  const box = document.createElement("p");
  box.className = "review";
  const button = (name, title, act) => box.append(press(name, title, act, box), " ");
  const said = (verdict) => say({...common(found, zoom), verdict}, box);
  if (found) {
    button("Right", "It is there, as it is drawn", () => said("accepted"));
    button("Wrong", "There is no such thing", () => said("rejected"));
    button("Redraw", "It looks otherwise: click its corners", async () => redraw(common(found, zoom)));
  } else button("Draw a building", "Click its corners", async () => redraw(common(null, zoom)));
  return box;
}

// A button, and what went wrong with it in the box that it is in.
function press(textContent, title, act, box) {
  const button = Object.assign(document.createElement("button"), {textContent, title});
  // the button is gone when Leaflet asks whether the click was in a popup, so it would be one on the map
  button.onclick = (event) => { event.stopPropagation(); act().catch((error) => { box.textContent = error.message; }); };
  return button;
}

function common(found, zoom) {
  if (!found) return {layer: "building", class: "building", zoom};
  const {layer, class: kind} = found.properties;
  return {layer, class: kind, zoom, seen: found.geometry};
}

async function say(review, box) {
  if (!$("key").value) { open_panel(true); $("key").focus(); throw new Error("this needs the key: see the menu"); }
  box.textContent = "keeping it …";
  const kept = await post(`/reviews/${shown.name}`, review);
  await renew();
  box.replaceChildren("Kept. ", press("Undo", "Take it back", async () => {
    await ask(`/reviews/${shown.name}/${kept.id}`, {method: "DELETE"});
    await renew();
    box.textContent = "taken back";
  }, box));
}

// ---- drawing: a click is a corner, a double click the last one

function redraw(review) {
  const is_road = review.layer === "road";
  trace(is_road ? 2 : 3, (points) => say({...review, verdict: "redrawn", there: is_road
    ? {type: "LineString", coordinates: points} : {type: "Polygon", coordinates: [[...points, points[0]]]}}, $("note")));
}

function trace(least, done) {
  stop_tracing();
  const line = L.polyline([], {color: "#1a6fd6", weight: 2, interactive: false}).addTo(map);
  map.closePopup();
  map.doubleClickZoom.disable();
  $("map").classList.add("tracing");
  tracing = {line, least, done};
  $("note").textContent = "Click the corners; double-click the last one. Escape stops.";
}

function stop_tracing() {
  if (!tracing) return;
  tracing.line.remove();
  tracing = null;
  $("note").textContent = "";
  $("map").classList.remove("tracing");
  setTimeout(() => map.doubleClickZoom.enable(), 300);
}

map.on("click", ({latlng}) => { if (tracing) tracing.line.addLatLng(latlng); });
map.on("dblclick", async () => {
  if (!tracing) return;
  const {line, least, done} = tracing;
  // a double click is two clicks at one place
  const corners = line.getLatLngs().map(({lng, lat}) => [lng, lat]);
  const points = corners.filter(([x, y], i) => !i || x !== corners[i - 1][0] || y !== corners[i - 1][1]);
  stop_tracing();
  if (points.length < least) { $("note").textContent = `that takes ${least} corners`; return; }
  try {
    await done(points);
  } catch (error) { $("note").textContent = error.message; }
});
