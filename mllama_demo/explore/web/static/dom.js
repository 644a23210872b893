// Helpers of the Explore page: elements, requests and streams of events. Text is inserted as text, never as HTML.
import { errorMessage, readNdjson } from "../../web/static/ndjson.js";

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

export async function request(path, options = {}) {
  const response = await fetch(`/explore/${path}`, options);
  if (!response.ok) throw new Error(await errorMessage(response));
  return response.json();
}

const jsonPost = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
export const post = (path, body) => request(path, jsonPost(body));

// Calls onEvent for every event of a stream, until the stream ends. Throws an error event and a connection that breaks.
export async function streamEvents(path, body, onEvent) {
  const response = await fetch(`/explore/${path}`, jsonPost(body));
  if (!response.ok) throw new Error(await errorMessage(response));
  let last = null;
  for await (last of readNdjson(response)) {
    if (last.event === "error") throw new Error(last.error);
    onEvent(last);
  }
  if (last?.event !== "end") throw new Error("The connection ended before the answer did. What was there by then is saved; reload the page to see it.");
}

// An event handler that shows its error to the user.
export const handler = (work) => async (...args) => {
  const place = args[0]?.target?.closest?.("[data-messages]") ?? null;
  showMessage("");
  try {
    return await work(...args);
  } catch (error) {
    // The work may have drawn the open answer again.
    showMessage(error.message || String(error), place && !place.isConnected ? document.querySelector(".detail") : place);
  }
};
