// Helpers of the Explore page: elements, requests and streams of events. Text is inserted as text, never as HTML.
import { errorMessage, readNdjson } from "../../web/static/ndjson.js";
import { AXIS_NAMES, capitalized } from "./state.js";

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

export const button = (text, onclick, attributes = {}) => el("button", { type: "button", onclick, ...attributes }, text);
// Stops what was started under the id; cell: only this cell of a grid.
export const stopButton = (id, cell) =>
  button("Stop", handler(() => post(`live/${id}/stop`, cell == null ? {} : { cell })), { class: "small danger" });
export const percent = (p) => (p >= 0.1 ? `${(100 * p).toFixed(1)} %` : p >= 0.0001 ? `${(100 * p).toFixed(2)} %` : p > 0 ? "< 0.01 %" : "0");
// The text of a token with visible white space.
export const visibleToken = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

const message = $("message");
const messageHome = message.parentElement;

// Shows an error at what the user pressed, or above the answers. place: an element with the attribute data-messages.
function showMessage(text, place = null) {
  message.textContent = text ?? "";
  message.hidden = !text;
  if (place?.isConnected) place.append(message);
  else messageHome.insertBefore(message, $("grid-panel"));
  if (text) message.scrollIntoView({ block: "nearest" });
}

// The API names its fields in its sentences. The page calls the same values by its labels.
const LABELS = { ...AXIS_NAMES, max_tokens: "max tokens" };
const inPageWords = (text) => capitalized(text.replace(/\b(top_p|top_k|max_tokens)\b/g, (name) => LABELS[name]));

// The error of a response, for the visitor. A failure that is not the visitor's own has the id to find it by in the log.
async function errorOf(response) {
  const text = inPageWords(await errorMessage(response));
  const id = response.status >= 429 && response.headers.get("X-Request-Id");
  return new Error(id ? `${text} (Request ${id})` : text);
}

// The error of a request that reaches no server. The browser's own words for it differ, and none says what is wrong.
export class ServerUnreachable extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

async function send(path, options) {
  const response = await fetch(`explore/${path}`, options).catch(() => {
    throw new ServerUnreachable();
  });
  if (!response.ok) throw await errorOf(response);
  return response;
}

export async function request(path, options = {}) {
  const response = await send(path, options);
  return response.json().catch(() => {
    throw new ServerUnreachable(); // the connection broke within the answer
  });
}

const jsonPost = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
export const post = (path, body) => request(path, jsonPost(body));

const BROKEN_OFF = "The connection ended before the answer did. Reload the page to see what of it was saved.";

// Calls onEvent for every event of a stream, until the stream ends. Throws an error event and a connection that breaks.
export async function streamEvents(path, body, onEvent) {
  const lines = readNdjson(await send(path, jsonPost(body)));
  let ended = false;
  for (;;) {
    const { value: event, done } = await lines.next().catch(() => ({ done: true }));
    if (done && !ended) throw new Error(BROKEN_OFF);
    if (done) return;
    if (event.event === "error") throw new Error(event.error);
    ended = event.event === "end";
    onEvent(event);
  }
}

// --- results that come late ------------------------------------------------------------------------------------------------

class Superseded extends Error {}
const newest = new WeakMap(); // the newest promise for each place

// Waits for the promise of what will be drawn in a place of the page. place: an element, such as the panel of the open answer.
// Throws Superseded, which `handler` ignores, when the place has left the page or when something newer is to be drawn there. What
// follows in the caller may therefore draw without asking what the page shows by now.
export async function forPlace(place, promise) {
  newest.set(place, promise);
  const [result] = await Promise.allSettled([promise]);
  if (newest.get(place) !== promise || !place.isConnected) throw new Superseded();
  if (result.status === "rejected") throw result.reason;
  return result.value;
}

// Drops what is on its way to a place.
export const release = (place) => newest.delete(place);

// An event handler that shows its error to the user.
export const handler = (work) => async (...args) => {
  const place = args[0]?.target?.closest?.("[data-messages]") ?? null;
  showMessage("");
  try {
    return await work(...args);
  } catch (error) {
    if (error instanceof Superseded) return undefined;
    // The work may have drawn the open answer again.
    showMessage(error.message || String(error), place && !place.isConnected ? document.querySelector(".detail") : place);
  }
};
