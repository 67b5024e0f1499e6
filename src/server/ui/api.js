// The way to the program: requests, commands and the WebSocket, with the token where one is needed.

const TOKEN = "youquanti-token";

// A link may bring the token behind #, which no server sees.
const brought = new URLSearchParams(location.hash.slice(1)).get("token");
if (brought) {
  sessionStorage.setItem(TOKEN, brought);
  history.replaceState(null, "", location.pathname);
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `the program answers ${status}`);
    this.status = status;
    this.allowed = error?.allowed ?? [];
    this.missing = error?.missing ?? [];
  }
}

export async function json(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw new Refusal(response.status, (await response.json().catch(() => ({}))).error);
  return response.json();
}

export async function command(command, values = {}) {
  const id = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
  const response = await fetch("/api/v1/commands", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify({ id, command, ...values }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Refusal(response.status, answer.error);
  return answer.ok;
}

// The session machine's clock, as the newest questions and answers tell it: [ms to add to performance.now(), ms that this may be wrong by].
const ASKED_AT_ONCE = 8;
const ASKED_EVERY_MS = 10000;
const COARSE_MS = 0.1; // performance.now(), where a page is not isolated
let ties = [];

/** Milliseconds since an instant of the session's clock, and how far they may be wrong; null until the clock is known. */
export function since(seconds) {
  if (!ties.length) return null;
  const [shift, error] = ties.reduce((best, tie) => (tie[1] < best[1] ? tie : best));
  return { ms: performance.now() + shift - seconds * 1000, error };
}

function answered({ sent, now_s }) {
  const now = performance.now();
  ties = [...ties, [now_s * 1000 - (sent + now) / 2, (now - sent) / 2 + COARSE_MS]].slice(-ASKED_AT_ONCE);
}

// Says something on the open WebSocket; null while there is none.
let say = null;
/** Asks for what is wished for now, where that has changed. */
export let renew = () => {};
// Whoever waits for a picture, by camera.
const waiting = new Map();

/** A newer picture of a camera than number `after`, as soon as there is one: what belongs to it, and its JPEG. */
export function picture(camera, after) {
  return new Promise((resolve, reject) => {
    if (!say) return reject(new Error("not connected"));
    waiting.set(camera, { resolve, reject });
    say({ type: "picture", camera, after });
  });
}

function settle(camera, how, value) {
  waiting.get(camera)?.[how](value);
  waiting.delete(camera);
}

function arrived(bytes) {
  const size = new DataView(bytes).getUint32(0, true);
  const frame = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, size)));
  settle(frame.camera, "resolve", { frame, jpeg: new Uint8Array(bytes, 4 + size) });
}

/** Opens the WebSocket, and again whenever it is closed; `wish` is asked anew each time. */
export function live(wish, onMessage, onState) {
  const token = sessionStorage.getItem(TOKEN);
  const protocols = token ? ["youquanti.v1", `bearer.${token}`] : ["youquanti.v1"];
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/v1/live`, protocols);
  socket.binaryType = "arraybuffer";
  const ask = () => say({ type: "clock", sent: performance.now() });
  let asking = null;
  socket.onopen = () => {
    say = (message) => socket.send(JSON.stringify(message));
    ties = []; // of a session that may have been another
    renew = () => say?.({ type: "subscribe", ...wish() });
    renew();
    ask();
    asking = setInterval(ask, ASKED_EVERY_MS);
    onState(true);
  };
  socket.onmessage = ({ data }) => {
    if (data instanceof ArrayBuffer) return arrived(data);
    const message = JSON.parse(data);
    if (message.type === "no_picture") return settle(message.camera, "reject", new Refusal(message.status, message));
    if (message.type !== "clock") return onMessage(message);
    answered(message);
    if (ties.length < ASKED_AT_ONCE) ask();
  };
  socket.onclose = () => {
    say = null;
    for (const camera of [...waiting.keys()]) settle(camera, "reject", new Error("not connected"));
    clearInterval(asking);
    onState(false);
    setTimeout(() => live(wish, onMessage, onState), 2000);
  };
}
