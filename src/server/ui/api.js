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
  }
}

export async function get(path, signal) {
  const response = await fetch(path, { headers: headers(), signal });
  if (!response.ok) throw new Refusal(response.status, (await response.json().catch(() => ({}))).error);
  return response;
}

export const json = async (path) => (await get(path)).json();

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

/** Opens the WebSocket, and again whenever it is closed; `wish` is asked anew each time. */
export function live(wish, onMessage, onState) {
  const token = sessionStorage.getItem(TOKEN);
  const protocols = token ? ["youquanti.v1", `bearer.${token}`] : ["youquanti.v1"];
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/v1/live`, protocols);
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: "subscribe", ...wish() }));
    onState(true);
  };
  socket.onmessage = (message) => onMessage(JSON.parse(message.data));
  socket.onclose = () => {
    onState(false);
    setTimeout(() => live(wish, onMessage, onState), 2000);
  };
}
