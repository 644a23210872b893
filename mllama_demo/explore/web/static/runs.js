// The saved runs: list, open, repeat, delete, export and import. Also the dialog with code that repeats a cell.
import { $, button, el, handler, request } from "./dom.js";
import { runGrid, showRun } from "./explore.js";
import { requireIdle } from "./state.js";

export async function listRuns() {
  const runs = await request("runs");
  $("runs").replaceChildren(...runs.map((run) => {
    const size = `${run.cells} ${run.cells === 1 ? "cell" : "cells"}${run.failed ? `, ${run.failed} failed` : ""}`;
    return el("li", {},
      button(run.title, handler(() => openRun(run.id)), { class: "link" }),
      el("span", { class: "hint" }, `${new Date(run.created).toLocaleString()} · ${size} · ${run.model}`),
      button("Delete", handler(() => deleteRun(run)), { class: "link", "aria-label": `Delete ${run.title}` }));
  }));
  if (!runs.length) $("runs").append(el("li", { class: "hint" }, "None yet. Every run is kept here, and yours alone."));
}

async function openRun(id) {
  requireIdle();
  showRun(await request(`runs/${id}`));
  $("grid-panel").scrollIntoView();
}

async function deleteRun(run) {
  if (!window.confirm(`Delete “${run.title}”? It cannot be brought back.`)) return;
  await request(`runs/${run.id}`, { method: "DELETE" });
  await listRuns();
}

// The buttons beside the title of the displayed run.
export function showRunActions(view) {
  const exportLink = (kind) => el("a", { href: `/explore/runs/${view.id}/export.${kind}`, download: "", class: "link", "aria-label": `Export ${kind.toUpperCase()}` }, kind.toUpperCase());
  $("run-actions").replaceChildren(
    button("Run all again", handler(() => runGrid(`runs/${view.id}/again`, {})), { class: "small" }),
    el("span", { class: "actions" }, "Export", ...["json", "csv", "html"].map(exportLink)));
}

export async function showCode(view, cell) {
  const { file, snippets } = await request(`runs/${view.id}/cells/${cell.index}/snippets`);
  const dialog = el("dialog", { "aria-label": `Code that repeats cell ${cell.name}`, class: "code" });
  dialog.append(
    el("div", { class: "heading" }, el("h2", {}, `Cell ${cell.name} again, without this page`), button("Close", () => dialog.close(), { class: "small" })),
    file ? el("p", {}, "With the picture saved as ", el("a", { href: `/explore/runs/${view.id}/image`, download: file }, file), ".") : "",
    ...snippets.flatMap(({ title, code }) => [
      el("div", { class: "heading" }, el("h3", {}, title), button("Copy", handler((event) => copyCode(code, event.target)), { class: "small", "aria-label": `Copy the ${title} code` })),
      el("pre", { tabindex: "0", "aria-label": `${title} code` }, code)]));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

// Browsers offer no clipboard to a page without HTTPS; the user can then select the code.
async function copyCode(code, pressed) {
  await navigator.clipboard?.writeText(code);
  pressed.textContent = navigator.clipboard ? "Copied" : "Not possible here";
}

$("import").addEventListener("change", handler(async () => {
  const file = $("import").files[0];
  if (!file) return;
  try {
    showRun(await request("import", { method: "POST", headers: { "Content-Type": "application/json" }, body: file }));
    await listRuns();
  } finally {
    $("import").value = "";
  }
}));
