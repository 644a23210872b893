// Kept runs: listed, opened, run again, deleted, taken out and brought in; and code that repeats a cell.
import { $, ask, button, el, guarded } from "./dom.js";
import { follow, show } from "./explore.js";
import { state } from "./state.js";

export async function listKept() {
  const runs = await ask("runs");
  $("kept").replaceChildren(...runs.map((run) => el("li", {},
    button(run.title, guarded(() => open(run.id)), { class: "link" }),
    el("span", { class: "hint" }, `${new Date(run.created).toLocaleString()} · ${run.cells} ${run.cells === 1 ? "cell" : "cells"}${run.failed ? `, ${run.failed} failed` : ""} · ${run.model}`),
    button("Delete", guarded(() => remove(run)), { class: "link", "aria-label": `Delete ${run.title}` }))));
  if (!runs.length) $("kept").append(el("li", { class: "hint" }, "None yet. Every run is kept here, and yours alone."));
}

async function open(id) {
  if (state.live) throw new Error("A run is under way; stop it first.");
  show(await ask(`runs/${id}`));
  $("grid-panel").scrollIntoView();
}

async function remove(run) {
  if (!window.confirm(`Delete “${run.title}”? It cannot be brought back.`)) return;
  await ask(`runs/${run.id}`, { method: "DELETE" });
  await listKept();
}

// Buttons beside the title of the run that is shown.
export function runActions(view) {
  const file = (kind) => el("a", { href: `/explore/runs/${view.id}/export.${kind}`, download: "", class: "link", "aria-label": `Export ${kind.toUpperCase()}` }, kind.toUpperCase());
  $("run-actions").replaceChildren(
    button("Run all again", guarded(() => follow(`runs/${view.id}/again`, {})), { class: "small" }),
    el("span", { class: "actions" }, "Export", file("json"), file("csv"), file("html")));
}

export async function showCode(view, cell) {
  const found = await ask(`runs/${view.id}/cells/${cell.index}/snippets`);
  const dialog = el("dialog", { "aria-label": `Code that repeats cell ${cell.name}`, class: "code" });
  dialog.append(el("div", { class: "bar" }, el("h2", {}, `Cell ${cell.name} again, without this page`), button("Close", () => dialog.close(), { class: "small" })),
    found.file ? el("p", {}, "With the picture saved as ", el("a", { href: `/explore/runs/${view.id}/image`, download: found.file }, found.file), ".") : "",
    ...found.snippets.flatMap((one) => [el("div", { class: "bar" }, el("h3", {}, one.title), button("Copy", guarded((event) => copy(one.code, event.target)), { class: "small", "aria-label": `Copy the ${one.title} code` })), el("pre", { tabindex: "0", "aria-label": `${one.title} code` }, one.code)]));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

// Without HTTPS a browser may have no clipboard; the code can be marked by hand then.
async function copy(code, pressed) {
  await navigator.clipboard?.writeText(code);
  pressed.textContent = navigator.clipboard ? "Copied" : "Not possible here";
}

$("import").addEventListener("change", guarded(async () => {
  const file = $("import").files[0];
  if (!file) return;
  try {
    const view = await ask("import", { method: "POST", headers: { "Content-Type": "application/json" }, body: file });
    show(view);
    await listKept();
  } finally {
    $("import").value = "";
  }
}));
