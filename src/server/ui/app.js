// The dashboard: shows a session that runs and steers it, by the interface that every other client has.

import { command, json, live, setToken } from "/ui/api.js";
import { Camera } from "/ui/camera.js";
import { Person } from "/ui/people.js";

const MARKERS = "youquanti-markers";
const THEME = "youquanti-theme";
const MOST_EVENTS = 200;
const at = (id) => document.getElementById(id);
const cameras = new Map();
const people = new Map();
let names = [];
let sizes = {};
let startedAt = 0;
let state = null;
let counts = null;

function complain(error) {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => (at("problem").hidden = true), 8000);
}

function overlay() {
  const boxes = at("overlay").elements;
  return { mesh: boxes.mesh.checked, boxes: boxes.boxes.checked, axes: boxes.axes.checked };
}

// Events and results

function onMessage(message) {
  if (message.type === "hello") {
    names = message.blendshapes;
    refreshPeople().catch(complain);
    for (const { name, width, height } of message.cameras) {
      sizes[name] = [width, height];
      if (!cameras.has(name)) {
        const camera = new Camera(name, overlay, complain);
        cameras.set(name, camera);
        at("cameras").append(camera.root);
      }
    }
  } else if (message.type === "result") {
    cameras.get(message.camera)?.result(message, sizes[message.camera]);
    for (const face of message.faces) {
      if (face.participant && face.blendshapes) person(face.participant).take(message.captured_at_s, face.blendshapes);
    }
  } else if (message.type === "event") {
    addEvent(message);
    if (message.kind === "participant" || message.kind === "participant_renamed") refreshPeople().catch(complain);
    refresh().catch(() => {});
  }
}

function person(id) {
  if (!people.has(id)) {
    const person = new Person(id, names, complain);
    people.set(id, person);
    const after = [...people.keys()].sort((a, b) => a.slice(1) - b.slice(1)).indexOf(id);
    at("people").insertBefore(person.root, at("people").children[after] ?? null);
  }
  return people.get(id);
}

const called = new Map();

async function refreshPeople() {
  for (const { participant, name } of (await json("/api/v1/participants")).participants) {
    called.set(participant, name);
    person(participant);
  }
}

function addEvent({ at_s, source, kind, detail }) {
  const row = document.createElement("li");
  row.dataset.kind = kind;
  const text = kind === "marker" ? detail.text
    : Object.entries(detail).filter(([, value]) => value !== "").map(([key, value]) => `${key}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  for (const part of [`${(at_s - startedAt).toFixed(2)} s`, source, kind, text]) {
    const cell = document.createElement("span");
    cell.textContent = part;
    row.append(cell);
  }
  at("event-list").prepend(row);
  while (at("event-list").children.length > MOST_EVENTS) at("event-list").lastChild.remove();
}

// Figures

async function refresh() {
  state = await json("/api/v1/state");
  document.title = at("session").textContent = state.session;
  at("state").textContent = at("state").dataset.state = state.state;
  startedAt = state.started_at_s ?? 0;
  const verdict = state.verdict?.state ?? "ok";
  at("verdict").hidden = verdict === "ok";
  at("verdict").textContent = at("verdict").dataset.state = verdict;
  at("verdict").title = state.verdict?.reasons.map((reason) => reason.text).join("\n") ?? "";
  const canStop = state.allowed.includes("stop_recording");
  at("record-what").textContent = canStop ? "Stop recording" : "Start recording";
  const canStart = state.allowed.includes("start_recording");
  at("record").disabled = !canStop && !canStart;
  at("override-form").hidden ||= !canStart;
  at("file").textContent = state.recording
    ? `${state.recording.path}, ${(state.recording.bytes / 1e6).toFixed(1)} MB` : "not recording";
  at("disk").textContent = state.free_bytes === null ? "" : `${gigabytes(state.free_bytes)} GB free on disk`;
}

const gigabytes = (bytes) => (bytes / 1e9).toFixed(1);

async function refreshFigures() {
  const [{ cameras: facts }, { cameras: ledger }, { cameras: latency }, { gpus }] =
    await Promise.all(["cameras", "ledger", "latency", "gpus"].map((name) => json(`/api/v1/${name}`)));
  at("gpus").textContent = gpus.map((gpu) => `${gpu.name}: ${gigabytes(gpu.memory_used_bytes)} of ${gigabytes(gpu.memory_total_bytes)} GB` +
    (gpu.utilisation === null ? "" : `, ${(gpu.utilisation * 100).toFixed(0)} % busy`)).join("; ");
  const now = performance.now();
  const before = counts;
  counts = { now, of: Object.fromEntries(facts.map((camera) => [camera.name, camera])) };
  if (!before) return; // rates need two looks
  const seconds = (now - before.now) / 1000;
  const rows = facts.map((camera) => {
    const old = before.of[camera.name] ?? camera;
    const fps = (camera.captured - old.captured) / seconds;
    cameras.get(camera.name)?.show(camera, fps, state.now_s);
    const dropped = Object.values(ledger[camera.name].consumers.pipeline.dropped).reduce((sum, count) => sum + count, 0);
    const { p50, p99 } = camera.latency_ms;
    const ms = (value) => (value === null ? "–" : value.toFixed(1));
    const row = document.createElement("tr");
    const cells = [camera.name, fps.toFixed(1), ((camera.results - old.results) / seconds).toFixed(1), dropped,
      camera.driver_lost, camera.restarts, ms(p50), ms(p99)];
    row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    row.append(histogram(latency[camera.name].histogram));
    return row;
  });
  at("figure-rows").replaceChildren(...rows);
}

function histogram(doublings) {
  const cell = document.createElement("td");
  const bars = document.createElement("span");
  bars.className = "histogram";
  const shown = doublings.filter(({ up_to_ms }) => up_to_ms > 1 && up_to_ms < 4000);
  const most = Math.max(1, ...shown.map(({ frames }) => frames));
  for (const { up_to_ms, frames } of shown) {
    const bar = document.createElement("i");
    bar.style.height = `${(frames / most) * 100}%`;
    bar.title = `up to ${up_to_ms.toFixed(1)} ms: ${frames} frames`;
    bars.append(bar);
  }
  cell.append(bars);
  return cell;
}

// Controls

at("recording").onsubmit = (event) => {
  event.preventDefault();
  if (state?.allowed.includes("stop_recording")) {
    command("stop_recording").then(refresh).catch(complain);
  } else {
    startRecording().catch((error) => (error.missing?.length ? offerOverride(error.missing) : complain(error)));
  }
};

function startRecording(decision = {}) {
  const name = at("recording-name").value.trim();
  const values = { ...(name && { name }), notes: at("recording-notes").value, by: "dashboard", ...decision };
  return command("start_recording", values).then(refresh);
}

// What a recording requires is missing: somebody may decide to do without, by name and for this one.
function offerOverride(missing) {
  const form = at("override-form");
  at("override-missing").textContent = missing.join(", ");
  if (form.hidden) form.reset();
  form.hidden = false;
  at("override-by").focus();
}

function endOverride() {
  at("override-form").hidden = true;
  at("record").focus();
}

at("override-form").onsubmit = (event) => {
  event.preventDefault();
  const [by, override] = ["override-by", "override-reason"].map((id) => at(id).value.trim());
  startRecording({ by, override }).then(endOverride).catch(complain);
};
at("override-form").onkeydown = (event) => {
  if (event.key === "Escape") endOverride();
};
at("override-cancel").onclick = endOverride;

const kept = JSON.parse(localStorage.getItem(MARKERS) ?? '["begin", "end", "question", "artefact"]');

function showMarkers() {
  at("marker-buttons").replaceChildren(...kept.map((text, index) => {
    const button = document.createElement("button");
    const key = index < 9 ? index + 1 : "";
    if (key) button.append(Object.assign(document.createElement("kbd"), { textContent: key }), " ");
    button.append(text);
    button.title = "Delete or a right click removes it";
    button.onclick = () => command("mark", { text }).catch(complain);
    button.oncontextmenu = (event) => {
      event.preventDefault();
      kept.splice(index, 1);
      showMarkers();
    };
    button.onkeydown = (event) => {
      if (event.key === "Delete") button.oncontextmenu(event);
    };
    return button;
  }));
  localStorage.setItem(MARKERS, JSON.stringify(kept));
}

function setMarker() {
  const text = at("marker-text").value.trim();
  if (text) command("mark", { text }).then(() => (at("marker-text").value = "")).catch(complain);
  return text;
}

at("marker-form").onsubmit = (event) => {
  event.preventDefault();
  setMarker();
};
at("marker-keep").onclick = () => {
  const text = setMarker();
  if (text && !kept.includes(text)) kept.push(text);
  showMarkers();
};

document.onkeydown = (event) => {
  if (event.target.matches("input:not([type=checkbox]), select") || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (event.key >= "1" && event.key <= "9") at("marker-buttons").children[event.key - 1]?.click();
  else if (event.key === "r") at("record").click();
  else if (event.key === "o") {
    const boxes = [...at("overlay").elements].filter((box) => box.type === "checkbox");
    const all = boxes.some((box) => box.checked);
    boxes.forEach((box) => (box.checked = !all));
  }
};

function showTheme() {
  const theme = localStorage.getItem(THEME) ?? "dark";
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

at("theme").onclick = () => {
  localStorage.setItem(THEME, at("theme").textContent.toLowerCase());
  showTheme();
};

at("token-form").onsubmit = (event) => {
  event.preventDefault();
  setToken(at("token").value.trim());
  location.reload();
};

// Start

async function start() {
  showTheme();
  showMarkers();
  try {
    await refresh();
  } catch (error) {
    at("token-form").hidden = error.status !== 401;
    if (error.status === 401) return;
    complain(error);
    setTimeout(start, 2000);
    return;
  }
  const wish = () => {
    // Where there are no pictures, what would be drawn on them is shown alone.
    const alone = [...cameras.values()].some((camera) => !camera.hasPreview);
    return { events: true, results: { rate: 10, head_pose: alone, landmarks: alone } };
  };
  live(wish, onMessage, (open) => {
    if (!open) at("state").textContent = at("state").dataset.state = "disconnected";
  });
  setInterval(() => refresh().then(refreshFigures).catch(() => {}), 1000);
  setInterval(() => people.forEach((person, id) => person.show(called.get(id) ?? id)), 100);
}

start();
