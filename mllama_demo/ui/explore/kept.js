// Kept runs: listed, opened, run again, deleted, taken out and brought in; and code that repeats a cell.
import { $, ask, button, el, guarded } from "./dom.js";
import { closeTokens } from "./tokens.js";
import { follow, show, state } from "./explore.js";

export async function listKept() {
  const runs = await ask("runs");
  $("kept").replaceChildren(...runs.map((run) => el("li", {},
    button(run.title, guarded(() => open(run.id)), { class: "link" }),
    el("span", { class: "hint" }, ` ${new Date(run.created).toLocaleString()} · ${run.cells} cells${run.failed ? `, ${run.failed} failed` : ""} · ${run.model} `),
    button("Delete", guarded(() => remove(run)), { class: "small", "aria-label": `Delete ${run.title}` }))));
  if (!runs.length) $("kept").append(el("li", { class: "hint" }, "None yet. Every run is kept here."));
}

async function open(id) {
  if (state.live) throw new Error("A run is under way; stop it first.");
  closeTokens();
  $("compare-panel").hidden = true;
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
  const file = (kind) => el("a", { href: `/explore/runs/${view.id}/export.${kind}`, download: "", class: "small" }, kind.toUpperCase());
  $("run-actions").replaceChildren(
    button("Run all again", guarded(() => follow(`runs/${view.id}/again`, {})), { class: "small" }),
    el("span", {}, "Export ", file("json"), " ", file("csv"), " ", file("html")),
    button("Code", guarded(() => code(view)), { class: "small" }));
}

async function code(view) {
  const picked = state.picked[0] ?? 0;
  const found = await ask(`runs/${view.id}/cells/${picked}/snippets`);
  const dialog = el("dialog", { "aria-label": "Code that repeats this cell", class: "code" });
  dialog.append(el("h2", {}, `Cell ${picked + 1} again, without this page`),
    found.file ? el("p", {}, "With the picture saved as ", el("code", {}, found.file), ".") : "",
    ...found.snippets.flatMap((one) => [el("h3", {}, one.title, " ", button("Copy", () => navigator.clipboard?.writeText(one.code), { class: "small" })), el("pre", { tabindex: "0" }, one.code)]),
    button("Close", () => dialog.close()));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

$("import").addEventListener("change", guarded(async () => {
  const file = $("import").files[0];
  if (!file) return;
  try {
    const view = await ask("import", { method: "POST", headers: { "Content-Type": "application/json" }, body: file });
    closeTokens();
    show(view);
    await listKept();
  } finally {
    $("import").value = "";
  }
}));
