// The main module of the Explore page: the run that is being generated, its address, and the guided tour.
import { $, button, el, handler, post, request, streamEvents } from "./dom.js";
import { endComparison } from "./detail.js";
import { estimateSoon, fillForm, fillFromChat, formValues, showThumbnails } from "./form.js";
import { applyCellEvent, closeAnswer, openAnswer, showFinishedMatrix, startMatrix } from "./matrix.js";
import { showMeasures } from "./measures.js";
import { listRuns, openRun, showRunActions } from "./runs.js";
import { plural, requireIdle, state } from "./state.js";
import { openTokens } from "./tokens.js";

// --- run -------------------------------------------------------------------------------------------------------------------

function setRunning(running) {
  state.running = running;
  $("stop-all").hidden = !running;
  $("run").disabled = running;
}

// Generates a grid and shows the answers as they arrive. scroll: whether the answers come into sight.
export async function runGrid(path, body, scroll = true) {
  requireIdle();
  clearRun();
  setRunning(true);
  const done = new Set();
  let count = 0;
  const showCount = () => ($("run-title").textContent = `${done.size} of ${plural(count, "answer")}`);
  try {
    await streamEvents(path, body, (event) => {
      if (event.event === "start") {
        [state.id, count] = [event.run, event.cells.length];
        showCount();
        startMatrix(event.cells);
        if (!body.tour) setAddress(event.run);
        if (scroll) $("grid-panel").scrollIntoView();
      } else if (event.event === "cell") {
        applyCellEvent(event);
        if (event.phase === "done") done.add(event.cell);
        showCount();
      } else showRun(event.view, { push: !event.view.tour });
    });
  } finally {
    setRunning(false);
    await listRuns();
    estimateSoon();
  }
}

const pageTitle = document.title;
// Shows the title of the run, also in the title of the tab.
export function setTitle(title) {
  $("run-title").textContent = title;
  document.title = title ? `${title} · ${pageTitle}` : pageTitle;
}

function setAddress(id) {
  const address = `/explore?run=${id}`;
  if (window.location.pathname + window.location.search !== address) window.history.pushState(null, "", address);
}

function clearRun() {
  endComparison();
  $("measures-panel").hidden = true;
  $("run-actions").replaceChildren();
}

export function hideRun() {
  clearRun();
  closeAnswer();
  Object.assign(state, { id: null, view: null, cells: [] });
  $("grid-panel").hidden = true;
  setTitle("");
}

// Shows a finished run. push: whether it gets its address. fill: whether the form gets its values.
export function showRun(view, { push = false, fill = false } = {}) {
  clearRun();
  state.id = view.id;
  setTitle(view.title);
  showFinishedMatrix(view);
  showRunActions(view);
  showMeasures(view);
  if (push) setAddress(view.id);
  const picture = view.image && { name: view.image, source: `run:${view.id}`, url: `/explore/runs/${view.id}/thumbnail` };
  if (fill) fillForm({ ...view.values, ...view }, picture);
}

// --- guided tour -----------------------------------------------------------------------------------------------------------

const showTourStep = handler(async (index) => {
  const steps = state.about.tour;
  const step = steps[index];
  const panel = $("tour-panel");
  const stepButton = (to, text) => (to in steps ? button(text, () => showTourStep(to), { class: text === "Next" ? "primary" : "" }) : null);
  panel.replaceChildren(el("h2", {}, `${index + 1} of ${steps.length}: ${step.title}`), el("p", {}, step.text),
    ...(step.embedded_text ? [el("p", { class: "embedded-text" }, step.embedded_text)] : []),
    el("div", { class: "actions" }, stepButton(index - 1, "Back"), stepButton(index + 1, "Next"), button("Close", () => (panel.hidden = true))));
  panel.hidden = false;
  fillForm(step.grid, step.image);
  panel.scrollIntoView();
  await runGrid("run", { ...formValues(), tour: true }, false);
  const cell = state.view.cells[step.cell];
  if (cell.has_traces && !panel.hidden) {
    openAnswer(step.cell);
    await openTokens(state.view, step.cell, step.token);
  }
  panel.scrollIntoView(); // openTokens has scrolled to the tokens
});

// --- start -----------------------------------------------------------------------------------------------------------------

$("grid-form").addEventListener("submit", (event) => {
  event.preventDefault();
  handler(() => runGrid("run", formValues()))(event);
});
$("stop-all").addEventListener("click", handler(() => post(`live/${state.id}/stop`, {})));
$("tour").addEventListener("click", () => showTourStep(0));

// Opens what the address names: a run, a shared run, or an answer of the chat.
const openAddress = handler(async () => {
  requireIdle();
  const address = new URLSearchParams(window.location.search);
  if (address.has("run")) return openRun(address.get("run"), false);
  hideRun();
  if (address.has("conversation")) await fillFromChat(address.get("conversation"), address.get("answer"));
});
window.addEventListener("popstate", openAddress);

handler(async () => {
  state.about = await request("about");
  $("model").textContent = `Model: ${state.about.model}.`;
  $("runs-hint").textContent = `The newest ${state.about.max_kept_runs} runs are saved; when there are more, the oldest goes. Export a run that must stay.`;
  showThumbnails(state.about);
  estimateSoon();
  await Promise.all([openAddress(), listRuns()]);
})();
