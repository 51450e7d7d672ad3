"use strict";
// What is to be where in a territory, in words: polygons with a prompt or weather, which belong to the layer.

const WEATHER = ["", "fog", "snow", "dusk", "night"];
let areas = [], outlines = L.layerGroup().addTo(map), steered = null;

function say_of_areas(text) { $("steer-status").textContent = text; }

// The areas of the layer that is shown, if it is a territory.
async function load_areas() {
  if (shown.name === steered) return;
  steered = shown.name;
  $("steering").hidden = !shown.territory;
  $("steered").textContent = shown.name;
  outlines.clearLayers();
  areas = [];
  list_areas(false);
  if (!shown.territory) return;
  const found = (await ask(`/areas/${shown.name}`)).features;
  if (shown.name !== steered) return;  // another layer meanwhile
  areas = found;
  say_of_areas("");
  list_areas(false);
}

function list_areas(changed) {
  $("steer").disabled = !changed;
  outlines.clearLayers();
  $("areas").replaceChildren(...areas.map((area, i) => {
    const ring = area.geometry.coordinates[0].map(([lng, lat]) => [lat, lng]);
    const outline = L.polygon(ring, {color: "#b04a00", weight: 2, fillOpacity: 0.05, interactive: false}).addTo(outlines);
    const box = document.createElement("fieldset"), title = document.createElement("legend");
    title.textContent = `area ${i + 1}`;
    box.append(title, words_of(area), weather_of(area));
    const row = document.createElement("div");
    row.className = "row";
    row.append(press("Show", "Move the map there", async () => map.fitBounds(outline.getBounds())),
      press("Remove", "The ground is as the sketch has it again", async () => {
        areas.splice(i, 1);
        list_areas(true);
      }));
    box.append(row);
    return box;
  }));
}

// What was said by a caption object is shown as its text; what is typed is a prompt.
function words_of(area) {
  const row = document.createElement("label"), field = document.createElement("input"), said = area.properties;
  row.className = "row";
  field.type = "text";
  field.placeholder = "as in the sketch";
  const caption = said.caption && (typeof said.caption === "string" ? said.caption
    : `scene: ${said.caption.scene}. ${said.caption.relation ? `relations: ${said.caption.relation}. ` : ""}elements: ${said.caption.element}.`);
  field.value = said.prompt || caption || "";
  field.onchange = () => {
    const text = field.value.trim();
    for (const name of ["prompt", "caption", "layout"]) delete said[name];
    if (text) said[text.startsWith("scene:") ? "caption" : "prompt"] = text;
    $("steer").disabled = false;
  };
  row.append("What is there ", field);
  return row;
}

function weather_of(area) {
  const row = document.createElement("div"), kind = document.createElement("select"), said = area.properties;
  const strength = Object.assign(document.createElement("input"), {type: "range", min: 0, max: 1, step: 0.05});
  row.className = "row";
  kind.ariaLabel = "weather";
  strength.ariaLabel = "strength of the weather";
  kind.append(...WEATHER.map((name) => Object.assign(document.createElement("option"), {value: name, textContent: name || "clear"})));
  if (said.weather && !WEATHER.includes(said.weather)) kind.append(Object.assign(document.createElement("option"), {textContent: said.weather}));
  kind.value = said.weather || "";
  strength.value = said.strength ?? 0.6;
  strength.disabled = !said.weather;
  kind.onchange = strength.onchange = () => {
    delete said.weather;
    delete said.strength;
    if (kind.value) Object.assign(said, {weather: kind.value, strength: Number(strength.value)});
    strength.disabled = !kind.value;
    $("steer").disabled = false;
  };
  row.append(kind, strength);
  return row;
}

$("draw-area").onclick = () => trace(3, async (points) => {
  const geometry = {type: "Polygon", coordinates: [[...points, points[0]]]};
  areas.push({type: "Feature", properties: {}, geometry});
  list_areas(true);
  $("areas").lastElementChild.querySelector("input").focus();
});

$("steer").onclick = async () => {
  if (!$("key").value) { say_of_areas("the key is needed first: see below"); $("key").focus(); return; }
  $("steer").disabled = true;
  say_of_areas("laying out the ground …");
  try {
    const body = JSON.stringify({type: "FeatureCollection", features: areas}), name = steered;
    const made = await ask(`/areas/${name}`, {method: "PUT", body, headers: {"Content-Type": "application/json"}});
    const kept = (await ask(`/areas/${name}`)).features;
    if (name !== steered) return;
    areas = kept;
    list_areas(false);
    say_of_areas(["done; the tiles of these areas are being made anew", ...made.notes].join(". "));
    await renew();
  } catch (error) {
    say_of_areas(error.message);
    $("steer").disabled = false;
  }
};

const load_again = () => load_areas().catch((error) => say_of_areas(error.message));
document.addEventListener("layer", load_again);
if (shown) load_again();
