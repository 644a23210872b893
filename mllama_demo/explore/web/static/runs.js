// The saved runs: list, open, name, delete, import. Also the buttons of the displayed run.
import { $, button, el, forPlace, handler, post, release, request } from "./dom.js";
import { hideRun, runGrid, setTitle, showRun } from "./explore.js";
import { showShare } from "./share.js";
import { plural, requireIdle, state } from "./state.js";

export async function listRuns() {
  const runs = await forPlace($("runs"), request("runs"));
  const own = runs.filter((run) => !run.tour);
  const tour = runs.filter((run) => run.tour);
  showItems($("runs"), own, el("li", { class: "hint" }, "None yet. Every run is saved here, and yours alone."));
  showItems($("tour-runs"), tour);
  $("tour-runs-group").hidden = !tour.length;
  $("tour-runs-title").textContent = `${plural(tour.length, "run")} of the tour`;
}

// A run that is being renamed stays as it is, in its place: taken out of the page, the field would lose the focus.
function showItems(list, runs, none = null) {
  const kept = list.querySelector("form")?.closest("li");
  const at = runs.findIndex((run) => run.id === kept?.dataset.run);
  if (at < 0) return list.replaceChildren(...runs.map(runItem), ...(runs.length || !none ? [] : [none]));
  for (const item of [...list.children]) if (item !== kept) item.remove();
  kept.before(...runs.slice(0, at).map(runItem));
  return kept.after(...runs.slice(at + 1).map(runItem));
}

function runItem(run) {
  const date = new Date(run.created).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  const size = `${plural(run.cells, "cell")}${run.failed ? `, ${run.failed} failed` : ""}`;
  const picture = run.has_image ? el("img", { src: `explore/runs/${run.id}/thumbnail`, alt: "", loading: "lazy" }) : el("span", { class: "no-image", "aria-hidden": "true" }, "Aa");
  const name = el("div", { class: "run-name" }, el("a", { href: `explore?run=${run.id}`, class: "link", dir: "auto", onclick: handler((event) => openLink(event, run.id)) }, run.title),
    el("span", { class: "hint" }, el("time", { datetime: run.created }, date), ` · ${size} · ${run.model}`));
  return el("li", { "data-messages": "", "data-run": run.id, "aria-current": run.id === state.id ? "true" : null }, picture, name,
    el("div", { class: "actions" }, button("Rename", () => rename(run, name), { class: "link", "aria-label": `Rename ${run.title}` }),
      button("Delete", handler(() => deleteRun(run)), { class: "link", "aria-label": `Delete ${run.title}` })));
}

async function openLink(event, id) {
  if (event.metaKey || event.ctrlKey || event.shiftKey) return; // in a tab of its own
  event.preventDefault();
  await openRun(id);
}

// id: of a run, or the token of a link. Shows the run and puts it into the address and into the form.
export async function openRun(id, push = true) {
  requireIdle();
  showRun(await forPlace($("grid-panel"), request(`runs/${id}`)), { push, fill: true });
  $("grid-panel").scrollIntoView();
  for (const item of document.querySelectorAll("#runs-panel [data-run]")) {
    if (item.dataset.run === id) item.setAttribute("aria-current", "true");
    else item.removeAttribute("aria-current");
  }
}

function rename(run, place) {
  if (place.querySelector("form")) return;
  const shown = [...place.childNodes];
  const close = () => { place.replaceChildren(...shown); shown[0].focus(); };
  const field = el("input", { value: run.title, maxlength: 120, dir: "auto", "aria-label": "Name of the run" });
  const save = handler(async () => {
    if (!field.isConnected) return;
    const { title } = await request(`runs/${run.id}`, { method: "PATCH", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ title: field.value }) });
    if (state.view?.id === run.id) setTitle((state.view.title = title));
    close();
    await listRuns();
    document.querySelector(`[data-run="${run.id}"] .link`)?.focus();
  });
  const form = el("form", { class: "actions", onsubmit: (event) => { event.preventDefault(); save(event); }, onkeydown: (event) => event.key === "Escape" && close() },
    field, el("button", { class: "small" }, "Save"), button("Cancel", close, { class: "small" }));
  place.replaceChildren(form);
  field.select();
}

async function deleteRun(run) {
  if (!window.confirm(`Delete “${run.title}”? It cannot be brought back.`)) return;
  await request(`runs/${run.id}`, { method: "DELETE" });
  if (state.view?.id === run.id) {
    hideRun();
    window.history.replaceState(null, "", "explore");
  }
  await listRuns();
}

async function saveCopy(view) {
  const { id } = await post(`runs/${view.id}/copy`, {});
  await listRuns();
  if (state.id === view.id) await openRun(id);
}

// The buttons beside the title of the displayed run.
export function showRunActions(view) {
  const exportLink = (kind) => el("a", { href: `explore/runs/${view.id}/export.${kind}`, download: "", class: "link", "aria-label": `Export ${kind.toUpperCase()}` }, kind.toUpperCase());
  const own = [button("Run all again", handler(() => runGrid(`runs/${view.id}/again`, {})), { class: "small" }), button("Share", handler(() => showShare(view)), { class: "small" })];
  const shared = [el("span", { class: "hint" }, "Shared with you, read only"), button("Save a copy", handler(() => saveCopy(view)), { class: "small" })];
  release($("run-actions"));
  $("run-actions").replaceChildren(...(view.shared ? shared : own), el("span", { class: "actions" }, "Export", ...["json", "csv", "html"].map(exportLink)));
}

$("import").addEventListener("change", handler(async () => {
  const file = $("import").files[0];
  if (!file) return;
  try {
    requireIdle();
    const importing = request("import", { method: "POST", headers: { "Content-Type": "application/json" }, body: file });
    showRun(await forPlace($("grid-panel"), importing), { push: true, fill: true });
  } finally {
    $("import").value = "";
    await listRuns().catch(() => {}); // its failure would hide that of the import
  }
}));
