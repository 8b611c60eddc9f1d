// The page: images and their results.

import { ApiError, models, predict, token } from "./api.js";
import { decode, fromBase64 } from "./png.js";
import { overlay, save, stem, table } from "./save.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const MAX_PARALLEL = 2;   // requests at a time
const MAX_ATTEMPTS = 6;   // while the service is busy

const viewer = new Viewer($("stage"), $("image"), $("overlay"), $("divider"), $("cross"));
const state = { models: [], model: null, limits: null, items: [], current: null, hidden: new Set(), shown: null, turn: 0 };

// --- the service ---------------------------------------------------------------------------------------------------

async function connect() {
  try {
    const content = await models();
    Object.assign(state, { models: content.models, limits: content.limits });
    $("model").replaceChildren(...content.models.map(({ name }) => new Option(name, name)));
    $("model-field").hidden = content.models.length < 2;
    $("model").value = content.default;
    pick(content.default);
    if ($("login").open) $("login").close();
  } catch (error) {
    if (error.status === 401) { requestToken(token.get() ? error.message : ""); return; }
    $("about").textContent = error.message;
  }
}

function pick(name) {
  const model = state.models.find((one) => one.name === name);
  state.model = model;
  $("head").replaceChildren(...model.heads.map((name) => new Option(name, name)));
  $("head-field").hidden = model.heads.length < 2;
  const body = model.backbone ? `${model.variant} on ${model.backbone}` : model.variant;
  $("about").textContent = `${model.name}: ${body}, ${model.classes.length} classes`;
  const mega = (value) => (value / 1e6).toLocaleString("en", { maximumFractionDigits: 1 });
  $("limits").textContent = `Up to ${mega(state.limits.body_bytes)} MB and ${mega(state.limits.pixels)} megapixels. Images are not stored.`;
  $("known").hidden = false;
  $("chips").replaceChildren(...model.classes.map(({ name, color }) => {
    const chip = document.createElement("li");
    chip.append(swatch(color), name);
    return chip;
  }));
}

function swatch(color) {
  const box = document.createElement("span");
  box.className = "swatch";
  box.style.background = color;
  return box;
}

function requestToken(message) {
  $("login-error").textContent = message;
  if (!$("login").open) $("login").showModal();
  $("token").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  connect().then(() => state.items.filter((item) => item.error?.status === 401).forEach(again));
});
$("login").addEventListener("cancel", (event) => event.preventDefault());

// --- images --------------------------------------------------------------------------------------------------------

function add(files) {
  const items = [...files].map((file) => ({ file, name: file.name || "pasted image", state: "waiting", sent: 0 }));
  if (!items.length) return;
  state.items.push(...items);
  $("empty").hidden = true;
  $("work").hidden = false;
  items.forEach(tab);
  select(items[0]);
  items.forEach(thumbnail);
  next();
}

function next() {
  while (state.items.filter((item) => ["sending", "computing"].includes(item.state)).length < MAX_PARALLEL) {
    const item = state.items.find((one) => one.state === "waiting");
    if (!item) return;
    run(item).finally(next);
  }
}

async function run(item) {
  item.state = "sending";
  refresh(item);
  try {
    const limit = state.limits?.body_bytes ?? Infinity;
    if (item.file.size > limit) throw new ApiError(413, "body-too-large", `This file has ${(item.file.size / 1e6).toFixed(1)} MB; the limit of the service is ${limit / 1e6} MB.`);
    if (!state.model) throw new ApiError(0, "unreachable", "The service cannot be reached. Is it still running?");
    const readable = await drawable(item.file);
    const parts = ["label_map", "confidence", ...(readable ? [] : ["picture"])];
    const start = performance.now();
    const content = await withRetries(() => predict(item.file, state.model.name, $("head").value, parts, (share) => {
      item.sent = share;
      item.state = share < 1 ? "sending" : "computing";
      refresh(item);
    }), item);
    Object.assign(item, {
      state: "done", seconds: (performance.now() - start) / 1000, classes: content.classes, warnings: content.warnings, engine: `${content.engine} ${content.precision}`,
      labels: fromBase64(content.label_map), confidence: fromBase64(content.confidence),
      image: readable ? item.file : new Blob([fromBase64(content.picture)]), error: null,
    });
    if (!readable) thumbnail(item);
    announce(`${item.name}: ${summary(item)}`);
  } catch (error) {
    if (error.status === 401) requestToken("");
    Object.assign(item, { state: "failed", error: error instanceof ApiError ? error : new ApiError(0, "page", String(error.message || error)) });
    announce(`${item.name}: ${item.error.message}`);
  }
  if (state.items.includes(item)) refresh(item, true);
}

/** Retry while the service is busy, after the time that it states. */
async function withRetries(send, item) {
  for (let round = 1; ; round++) {
    try {
      return await send();
    } catch (error) {
      if (error.status !== 503 || round === MAX_ATTEMPTS || error.retryAfter === null) throw error;
      for (let left = error.retryAfter; left > 0; left--) {
        item.note = `The service is busy. Trying again in ${left} s.`;
        refresh(item);
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
      item.note = null;
    }
  }
}

/** Predict all images again, with another model or head. */
function predictAll() {
  state.hidden = new Set();
  state.items.filter((item) => ["done", "failed"].includes(item.state)).forEach(again);
}

/** Whether the browser can show an image; the service returns the others as JPEG. */
async function drawable(file) {
  try {
    (await createImageBitmap(file)).close();
    return true;
  } catch {
    return false;
  }
}

function again(item) {
  Object.assign(item, { state: "waiting", error: null, sent: 0 });
  refresh(item, true);
  next();
}

function summary(item) {
  const found = item.classes.filter((row) => row.pixels).sort((a, b) => b.pixels - a.pixels);
  return found.slice(0, 4).map((row) => `${row.name} ${percent(row.share)}`).join(", ");
}

const percent = (share) => `${(100 * share).toFixed(share && share < .001 ? 2 : 1)} %`;

function announce(text) { $("status").textContent = text; }

// --- the strip -----------------------------------------------------------------------------------------------------

function tab(item) {
  const button = document.createElement("button"), row = document.createElement("li");
  Object.assign(button, { type: "button", title: item.name });
  button.append(Object.assign(document.createElement("canvas"), { width: 168, height: 126 }));
  button.append(Object.assign(document.createElement("span"), { className: "state" }));
  button.addEventListener("click", () => select(item));
  row.append(button);
  item.button = button;
  $("strip").append(row);
}

async function thumbnail(item) {
  try {
    const bitmap = await createImageBitmap(item.image ?? item.file, { resizeWidth: 168, resizeQuality: "medium" });
    const canvas = item.button.querySelector("canvas"), height = 168 * bitmap.height / bitmap.width;
    canvas.getContext("2d").drawImage(bitmap, 0, (126 - height) / 2, 168, height);
    bitmap.close();
  } catch { /* not an image */ }
}

function refresh(item, changed = false) {
  const text = { waiting: "waiting", sending: `${Math.round(100 * item.sent)} % sent`, computing: "computing", done: "", failed: "failed" }[item.state];
  const label = item.button.querySelector(".state");
  label.textContent = text;
  label.hidden = !text;
  label.classList.toggle("bad", item.state === "failed");
  item.button.setAttribute("aria-label", `${item.name}${text ? `, ${text}` : ", done"}`);
  if (state.current === item) changed ? select(item) : progress(item);
}

async function select(item) {
  const turn = ++state.turn;
  state.current = item;
  for (const one of state.items) one.button.setAttribute("aria-current", String(one === item));
  for (const one of state.items) if (one.button.getAttribute("aria-label") === null) refresh(one);
  $("tip").hidden = true;
  if (item.state !== "done") {
    forget();
    $("panel").hidden = $("tools").hidden = true;
    item.state === "failed" ? failure(item) : progress(item);
    return;
  }
  const bitmap = await createImageBitmap(item.image).catch(() => null);
  const [labels, confidence] = await Promise.all([decode(item.labels), decode(item.confidence)]);
  if (turn !== state.turn) { bitmap?.close(); return; }
  forget();
  const colors = item.classes.map(({ color }) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
  state.shown = { item, bitmap, labels, colors };
  $("message").hidden = true;
  $("panel").hidden = $("tools").hidden = false;
  classes(item);
  viewer.setHidden(state.hidden);
  await viewer.show(bitmap, labels, confidence, colors);
  $("size").textContent = `${labels.width.toLocaleString("en")} × ${labels.height.toLocaleString("en")} pixels`;
  $("file-name").textContent = item.name;
  $("file-facts").textContent = `${item.classes.filter((row) => row.pixels).length} of ${item.classes.length} classes, in ${item.seconds.toFixed(item.seconds < 10 ? 2 : 0)} s by ${item.engine}`;
  $("warnings").hidden = !item.warnings.length;
  $("warnings").replaceChildren(...item.warnings.map(({ message }) => {
    const line = document.createElement("p");
    line.textContent = message;
    return line;
  }));
  $("stage").dataset.ready = item.name;
}

function forget() {
  state.shown?.bitmap?.close();
  state.shown = null;
  delete $("stage").dataset.ready;
  $("tip").hidden = true;
  viewer.clear();
}

// --- messages over the stage ------------------------------------------------------------------------------------------

function card(kind, title, ...parts) {
  const box = document.createElement("div");
  box.className = `box ${kind}`;
  box.append(Object.assign(document.createElement("h2"), { textContent: title }), ...parts);
  $("message").replaceChildren(box);
  $("message").hidden = false;
}

const line = (text, kind = "") => Object.assign(document.createElement("p"), { textContent: text, className: kind });

function progress(item) {
  if (item.state === "done" || item.state === "failed") return;
  const bar = document.createElement("progress");
  bar.setAttribute("aria-label", "Progress");
  if (item.state === "sending") Object.assign(bar, { max: 1, value: item.sent });
  const text = item.note ?? { waiting: "Waiting.", sending: "Sending.", computing: "Computing." }[item.state];
  card("", item.name, line(text, "soft"), bar);
}

function failure(item) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
  button.addEventListener("click", () => again(item));
  card("bad", item.name, line(item.error.message), button);
  $("message").firstChild.setAttribute("role", "alert");
}

// --- the panel -----------------------------------------------------------------------------------------------------

function classes(item) {
  const rows = [...item.classes].sort((a, b) => b.pixels - a.pixels);
  $("classes").replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr"), label = document.createElement("label"), box = document.createElement("input");
    Object.assign(box, { type: "checkbox", checked: !state.hidden.has(row.index) });
    box.dataset.index = row.index;
    box.addEventListener("change", () => { box.checked ? state.hidden.delete(row.index) : state.hidden.add(row.index); viewer.setHidden(state.hidden); });
    label.className = "class";
    label.append(box, swatch(row.color), row.name);
    const share = document.createElement("td"), meter = document.createElement("span");
    meter.className = "meter";
    meter.style.width = `${100 * row.share}%`;
    meter.hidden = !row.pixels;
    share.className = "number";
    share.append(percent(row.share), meter);
    const pixels = Object.assign(document.createElement("td"), { className: "number pixels", textContent: row.pixels.toLocaleString("en") });
    const cell = document.createElement("td");
    cell.append(label);
    line.className = row.pixels ? "" : "absent";
    line.append(cell, share, pixels);
    return line;
  }));
}

function switchAll(on) {
  state.hidden = new Set(on ? [] : state.shown.item.classes.map((row) => row.index));
  for (const box of $("classes").querySelectorAll("input")) box.checked = on;
  viewer.setHidden(state.hidden);
}

function setOpacity() {
  viewer.setOpacity($("opacity").value / 100);
  $("opacity-value").textContent = `${$("opacity").value} %`;
}

function setCompare() {
  const value = Number($("compare").value);
  viewer.setSplit(value / 100);
  showCompare(value);
}

const showCompare = (value) => { $("compare-value").textContent = value === 0 ? "after" : value === 100 ? "before" : `${value} %`; };

viewer.onSplit = (share) => { $("compare").value = Math.round(100 * share); showCompare(Math.round(100 * share)); };
viewer.onZoom = (scale) => { $("zoom-level").textContent = `${scale < .1 ? (100 * scale).toFixed(1) : Math.round(100 * scale)} %`; };
viewer.onProbe = (found, left, top, announced = false) => {
  const tip = $("tip");
  tip.hidden = !found;
  if (!found) return;
  const row = state.shown.item.classes.find(({ index }) => index === found.index);
  const name = row?.name ?? "void", sure = found.confidence === null ? "" : ` ${found.confidence} %`;
  tip.replaceChildren(...(row ? [swatch(row.color)] : []), `${name}${sure}`, Object.assign(document.createElement("small"), { textContent: `x ${found.x}, y ${found.y}` }));
  const room = [$("stage").clientWidth - tip.offsetWidth - 6, $("stage").clientHeight - tip.offsetHeight - 6];
  tip.style.left = `${Math.max(6, left + 16 > room[0] ? left - tip.offsetWidth - 14 : left + 16)}px`;
  tip.style.top = `${Math.max(6, Math.min(room[1], top + 14))}px`;
  if (announced) announce(`${name}${sure}, x ${found.x}, y ${found.y}`);
};

$("opacity").addEventListener("input", setOpacity);
$("compare").addEventListener("input", setCompare);
$("all").addEventListener("click", () => switchAll(true));
$("none").addEventListener("click", () => switchAll(false));
$("zoom-in").addEventListener("click", () => viewer.zoom(1.4));
$("zoom-out").addEventListener("click", () => viewer.zoom(1 / 1.4));
$("zoom-fit").addEventListener("click", () => viewer.fit());
$("save-labels").addEventListener("click", () => save([state.shown.item.labels], `${stem(state.shown.item.name)}.png`, "image/png"));
$("save-table").addEventListener("click", () => {
  const done = state.items.filter((item) => item.state === "done");
  save([table(done)], done.length > 1 ? "summary.csv" : `${stem(done[0].name)}.csv`, "text/csv");
});
$("save-overlay").addEventListener("click", async () => {
  const { item, bitmap, labels, colors } = state.shown;
  try {
    save([await overlay(bitmap, labels, colors, state.hidden, $("opacity").value / 100)], `${stem(item.name)}.overlay.png`, "image/png");
  } catch (error) {
    announce(`The overlay cannot be saved: ${error.message}.`);
  }
});

// --- inputs --------------------------------------------------------------------------------------------------------

$("choose").addEventListener("click", () => $("files").click());
$("add").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => { add($("files").files); $("files").value = ""; });
$("clear").addEventListener("click", () => {
  forget();
  Object.assign(state, { items: [], current: null, hidden: new Set() });
  state.turn++;
  $("strip").replaceChildren();
  $("work").hidden = true;
  $("empty").hidden = false;
  $("choose").focus();
});
for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", async () => {
    const response = await fetch(`/page/${button.dataset.name}`);
    add([new File([await response.blob()], button.dataset.name, { type: "image/jpeg" })]);
  });
}
$("model").addEventListener("change", () => { pick($("model").value); predictAll(); });
$("head").addEventListener("change", predictAll);
document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
let depth = 0;
const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragenter", (event) => { if (carries(event)) { depth++; $("over").hidden = false; } });
document.addEventListener("dragleave", (event) => { if (carries(event) && --depth <= 0) { depth = 0; $("over").hidden = true; } });
document.addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  depth = 0;
  $("over").hidden = true;
  add([...event.dataTransfer.files]);
});

setOpacity();
connect();
