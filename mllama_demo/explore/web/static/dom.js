// Small helpers of the Explore page: elements, requests, lines of a stream. Text goes in as text, never as HTML.
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
  element.append(...children.filter((child) => child != null));
  return element;
}

export const button = (text, onclick, more = {}) => el("button", { type: "button", onclick, ...more }, text);
// A button that ends what is under way: a run, one cell of it, a cell anew, a branch.
export const stopButton = (id, cell) =>
  button("Stop", guarded(() => post(`live/${id}/stop`, cell == null ? {} : { cell })), { class: "small danger" });
export const percent = (p) => (p >= 0.1 ? `${(100 * p).toFixed(1)} %` : p >= 0.0001 ? `${(100 * p).toFixed(2)} %` : p > 0 ? "< 0.01 %" : "0");
// A token for the eye: white space and line breaks can be seen.
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";

export function say(text) {
  $("message").textContent = text ?? "";
  $("message").hidden = !text;
}

export async function ask(path, options = {}) {
  const response = await fetch(`/explore/${path}`, options);
  if (!response.ok) throw new Error(await errorMessage(response));
  return response.json();
}

const JSON_POST = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });
export const post = (path, body) => ask(path, JSON_POST(body));

// Calls take(object) for every line; ends when the stream does. What the server says of a failure is thrown.
export async function stream(path, body, take) {
  const response = await fetch(`/explore/${path}`, JSON_POST(body));
  if (!response.ok) throw new Error(await errorMessage(response));
  let last = null;
  for await (last of readNdjson(response)) {
    if (last.event === "error") throw new Error(last.error);
    take(last);
  }
  if (last?.event !== "end") throw new Error("The connection ended before the answer did. What was there by then is kept; reload the page to see it.");
}

// What an event handler does; a failure is said instead of lost.
export const guarded = (work) => async (...args) => {
  say("");
  try {
    return await work(...args);
  } catch (error) {
    say(error.message || String(error));
  }
};
