"use strict";
// Countries that do not exist: a sketch is painted or chosen, and the server makes imagery and a map of it.

const LONGEST = 512;  // pixels of a sketch along its longer side
const KEPT_STEPS = 20;
const WIDTH = 0.3;  // degrees of a territory, where the view is too large or too small for one

const canvas = $("sketch"), ink = canvas.getContext("2d", {willReadFrequently: true});
let cover = null, steps = [], at = null, chosen = null, cursor = [0, 0];

// ---- painting: discs of whole pixels, because a blend of two colours would be a third kind of ground

function disc(x, y) {
  const radius = Number($("brush").value) / 2;
  ink.fillStyle = cover.paint;
  for (let row = Math.ceil(-radius); row <= radius; row += 1) {
    const half = Math.sqrt(Math.max(0, radius * radius - row * row));
    ink.fillRect(Math.round(x - half), Math.round(y + row), Math.max(1, Math.round(2 * half)), 1);
  }
}
function line(from, to) {
  const count = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
  for (let i = 0; i <= count; i += 1) {
    disc(from[0] + (to[0] - from[0]) * i / count, from[1] + (to[1] - from[1]) * i / count);
  }
}
function fill([x, y]) {
  const {width, height} = canvas, image = ink.getImageData(0, 0, width, height);
  const pixels = new Uint32Array(image.data.buffer), start = Math.floor(y) * width + Math.floor(x), old = pixels[start];
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(cover.paint.slice(i, i + 2), 16));
  const colour = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
  if (old === colour) return;
  const open = [start];
  while (open.length) {
    const place = open.pop();
    if (pixels[place] !== old) continue;
    pixels[place] = colour;
    if (place % width) open.push(place - 1);
    if ((place + 1) % width) open.push(place + 1);
    if (place >= width) open.push(place - width);
    if (place < width * (height - 1)) open.push(place + width);
  }
  ink.putImageData(image, 0, 0);
}
function remember() {
  steps.push(ink.getImageData(0, 0, canvas.width, canvas.height));
  steps = steps.slice(-KEPT_STEPS);
  $("undo").disabled = false;
  chosen = null;
}
function undo() {
  const before = steps.pop();
  if (before) {
    canvas.width = before.width;
    canvas.height = before.height;
    ink.putImageData(before, 0, 0);
  }
  chosen = null;
  $("undo").disabled = !steps.length;
}
function where(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
}
canvas.addEventListener("pointerdown", (event) => {
  remember();
  at = where(event);
  if ($("fill").checked) { fill(at); at = null; return; }
  canvas.setPointerCapture(event.pointerId);
  disc(...at);
});
canvas.addEventListener("pointermove", (event) => {
  if (!at) return;
  const to = where(event);
  line(at, to);
  at = to;
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { at = null; });

// With the keyboard: the arrows move a cross, Space paints there.
canvas.addEventListener("keydown", (event) => {
  const step = Math.max(1, Number($("brush").value) / 2);
  const moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]};
  if (event.key === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (moves[event.key]) {
    const sides = [canvas.width, canvas.height];
    cursor = cursor.map((place, i) => Math.min(sides[i] - 1, Math.max(0, place + moves[event.key][i])));
  } else if (event.key === " ") {
    remember();
    if ($("fill").checked) fill(cursor); else disc(...cursor);
  } else return;
  event.preventDefault();
  cross();
});
function cross() {
  $("cross").style.left = `${canvas.offsetLeft + cursor[0] / canvas.width * canvas.clientWidth}px`;
  $("cross").style.top = `${canvas.offsetTop + cursor[1] / canvas.height * canvas.clientHeight}px`;
}
canvas.addEventListener("focus", () => { $("cross").hidden = !canvas.matches(":focus-visible"); cross(); });
canvas.addEventListener("blur", () => { $("cross").hidden = true; });

$("undo").onclick = undo;
$("clear").onclick = () => { remember(); ink.fillStyle = cover.paint; ink.fillRect(0, 0, canvas.width, canvas.height); };
$("picture").onchange = () => { if ($("picture").files[0]) load_picture($("picture").files[0]).catch(say_so); };

async function load_picture(file) {
  let bitmap;
  try { bitmap = await createImageBitmap(file); } catch { throw new Error("this file is no picture that the page can show"); }
  remember();
  ink.imageSmoothingEnabled = false;
  ink.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  chosen = file;  // sent as it is, unless it is painted on
}

// ---- where it lies

function box_of_view() {
  const view = map.getBounds(), center = map.getCenter(), wide = view.getEast() - view.getWest();
  const size = wide > 2 || wide < 0.02 ? WIDTH : wide;
  const west = Math.max(-180, center.lng - size / 2), east = Math.min(180, center.lng + size / 2);
  const high = size * 0.7 * Math.cos(center.lat * Math.PI / 180);
  return [west, center.lat - high / 2, east, center.lat + high / 2].map((side) => side.toFixed(4)).join(",");
}
function box_of_field() {
  const box = $("bounds").value.split(",").map(Number);
  const [west, south, east, north] = box;
  const right = box.length === 4 && box.every(Number.isFinite) && -180 <= west && west < east && east <= 180
    && -85 <= south && south < north && north <= 85;
  return right ? box : null;
}
// The canvas has the shape that the bounds have on a map; what is painted is kept.
function shape() {
  const box = box_of_field();
  $("make").disabled = !box;
  if (!box) { $("size").textContent = "bounds are west,south,east,north in degrees, within 85° north and south"; return; }
  const [west, south, east, north] = box, middle = (south + north) / 2 * Math.PI / 180;
  const [low, high] = [south, north].map((side) => map.options.crs.latLngToPoint(L.latLng(side, 0), 0).y);
  const tall = (low - high) / ((east - west) / 360 * 256);
  const width = Math.max(32, Math.round(tall > 1 ? LONGEST / tall : LONGEST));
  const height = Math.max(32, Math.round(tall > 1 ? LONGEST : LONGEST * tall));
  const across = (east - west) * 111.32 * Math.cos(middle), down = (north - south) * 110.57;
  $("size").textContent = `${across.toFixed(1)} × ${down.toFixed(1)} km, ${(across * 1000 / width).toFixed(0)} m a pixel`;
  if (canvas.width === width && canvas.height === height) return;
  const before = document.createElement("canvas");
  Object.assign(before, {width: canvas.width, height: canvas.height});
  before.getContext("2d").drawImage(canvas, 0, 0);
  Object.assign(canvas, {width, height});
  ink.imageSmoothingEnabled = false;
  ink.drawImage(before, 0, 0, width, height);
  cursor = [width / 2, height / 2];
}
$("bounds").oninput = shape;
$("here").onclick = () => { $("bounds").value = box_of_view(); shape(); };

const dice = () => Math.floor(Math.random() * 2 ** 32);
$("dice").onclick = () => { $("seed").value = dice(); };

// ---- sending it

function say_so(error) { $("making").textContent = error.message; }
function key_is_there() {
  if ($("key").value) return true;
  $("painter").close();
  open_panel(true);
  $("made").textContent = "the key is needed first: see below";
  $("key").focus();
  return false;
}
async function put(name, query, body) {
  const path = `/territories/${encodeURIComponent(name)}?${new URLSearchParams(query)}`;
  return ask(path, {method: "PUT", body});
}
$("make").onclick = async () => {
  if (!key_is_there()) return;
  $("make").disabled = true;
  $("busy").hidden = false;
  $("making").textContent = "drawing the ground, laying roads …";
  try {
    const picture = chosen || await new Promise((done) => canvas.toBlob(done, "image/png"));
    const name = $("name").value.trim();
    const made = await put(name, {bounds: $("bounds").value, seed: $("seed").value}, picture);
    $("making").textContent = `made: ${made.says}`;
    const [west, south, east, north] = made.bounds;
    const zoom = map.getBoundsZoom([[south, west], [north, east]]);
    show_layer(name, `#${Math.max(made.zooms[0], zoom)}/${((south + north) / 2).toFixed(5)}/${((west + east) / 2).toFixed(5)}`);
  } catch (error) {
    say_so(error);
    $("make").disabled = false;
  }
  $("busy").hidden = true;
};
// The page again, with the new layer in its list.
function show_layer(name, place) {
  location.assign(`${location.pathname}?layer=${encodeURIComponent(name)}&compare&menu${place}`);
}

// ---- the list of them

async function list() {
  const all = await ask("/territories");
  $("territories").replaceChildren(...all.map((one) => {
    const row = document.createElement("div"), name = document.createElement("span");
    row.className = "row";
    name.textContent = one.name;
    const act = (label, title, work) => Object.assign(press(label, title, async () => {
      if (key_is_there()) await work();
    }, $("made")), {ariaLabel: `${title}: ${one.name}`});
    row.append(name, act("Change", "Paint on, or move it", () => open_painter(one)),
      act("Dice", "Another seed: other coasts, fields and streets", async () => {
        $("made").textContent = `making ${one.name} anew …`;
        const again = await put(one.name, {seed: dice()});
        $("made").textContent = `${one.name} has seed ${again.seed} now`;
        if (shown.name === one.name) await renew();
      }),
      act("Remove", "Delete it and its tiles", async () => {
        if (!confirm(`Remove ${one.name} and all of its tiles?`)) return;
        await ask(`/territories/${one.name}`, {method: "DELETE"});
        if (shown.name === one.name) location.assign(location.pathname); else await list();
      }));
    return row;
  }));
}

async function open_painter(one) {
  $("made").textContent = $("making").textContent = "";
  $("name").value = one ? one.name : "carana";
  $("bounds").value = one ? one.bounds.join(",") : box_of_view();
  $("seed").value = one ? one.seed : dice();
  $("painter").showModal();
  shape();
  steps = [];
  chosen = null;
  if (one) {
    const answer = await fetch(`${base}/territories/${one.name}/sketch`);
    await load_picture(await answer.blob());
    steps = [];
  } else {
    ink.fillStyle = data.covers.find(({name}) => name === "water").paint;
    ink.fillRect(0, 0, canvas.width, canvas.height);
  }
  $("undo").disabled = true;
}
$("paint").onclick = () => open_painter(null).catch(say_so);
$("leave").onclick = () => $("painter").close();

$("covers").replaceChildren(...data.covers.map((one) => {
  const label = document.createElement("label"), radio = document.createElement("input"), swatch = document.createElement("i");
  Object.assign(radio, {type: "radio", name: "cover", value: one.name, checked: one.name === "grass"});
  radio.onchange = () => { cover = one; };
  if (radio.checked) cover = one;
  swatch.style.background = one.paint;
  label.append(radio, swatch, one.name);
  return label;
}));
if (data.layers.length) list().catch((error) => { $("made").textContent = error.message; });
