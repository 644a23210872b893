// The main module of the Explore page: the run that is being generated, its address, and the guided tour.
import { $, button, el, forPlace, handler, post, release, request, streamEvents } from "./dom.js";
import { endComparison } from "./detail.js";
import { estimateSoon, fillForm, fillFromChat, formValues, greyOutIgnored, showThumbnails } from "./form.js";
import { applyCellEvent, breakOffAnswers, closeAnswer, openAnswer, showFinishedMatrix, startMatrix } from "./matrix.js";
import { showMeasures } from "./measures.js";
import { listRuns, openRun, showRunActions } from "./runs.js";
import { plural, requireIdle, state } from "./state.js";
import { openTokens } from "./tokens.js";

// --- run -------------------------------------------------------------------------------------------------------------------

// The grid that is being generated: { tour, started, ended }. started: promise of the id of its run, of null when there is none.
let generating = null;

function setRunning(running) {
  state.running = running;
  $("stop-all").hidden = !running;
  $("run").disabled = running;
}

// Generates a grid and shows the answers as they arrive. scroll: whether the answers come into sight. What is shown stays until the
// server has taken the grid.
export function runGrid(path, body, scroll = true) {
  requireIdle();
  release($("grid-panel")); // a run that is being opened
  let start;
  const started = new Promise((resolve) => (start = resolve));
  generating = { tour: body.tour, started };
  generating.ended = generate(path, body, scroll, start);
  return generating.ended;
}

async function generate(path, body, scroll, start) {
  setRunning(true);
  const done = new Set();
  let count = null;
  const showCount = (more = "") => ($("run-title").textContent = `${done.size} of ${plural(count, "answer")}${more}`);
  try {
    await streamEvents(path, body, (event) => {
      if (event.event === "start") {
        clearRun();
        [state.id, count] = [event.run, event.cells.length];
        start(event.run);
        showCount();
        startMatrix(event.cells);
        if (!body.tour) setAddress(event.run);
        if (scroll) $("grid-panel").scrollIntoView();
      } else if (event.event === "cell") {
        applyCellEvent(event, { run: state.id, index: event.cell, live: state.live.get(event.cell), stop: [state.id, event.cell] });
        if (event.phase === "done") done.add(event.cell);
        showCount();
      } else showRun(event.view, { push: !event.view.tour });
    });
  } catch (error) {
    if (count != null) {
      showCount(", then the run broke off");
      breakOffAnswers();
    }
    throw error;
  } finally {
    start(null);
    generating = null;
    setRunning(false);
    estimateSoon();
    await listRuns().catch(() => {}); // its failure would hide that of the run
  }
}

async function stopGrid() {
  const id = await generating?.started;
  if (id) await post(`live/${id}/stop`, {});
}

// Stops the grid that is being generated, and waits for its end.
async function endGrid() {
  const ended = generating?.ended;
  await stopGrid().catch(() => {}); // it may just have ended
  await ended?.catch(() => {}); // whoever started it shows its error
}

const pageTitle = document.title;
// Shows the title of the run, also in the title of the tab.
export function setTitle(title) {
  $("run-title").textContent = title;
  document.title = title ? `${title} · ${pageTitle}` : pageTitle;
}

function setAddress(id) {
  const address = `explore?run=${id}`;
  if (new URL(address, window.location).search !== window.location.search) window.history.pushState(null, "", address);
}

function clearRun() {
  endComparison();
  $("measures-panel").hidden = true;
  release($("run-actions"));
  $("run-actions").replaceChildren();
}

export function hideRun() {
  release($("grid-panel"));
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
  const picture = view.image && { name: view.image, source: `run:${view.id}`, url: `explore/runs/${view.id}/thumbnail` };
  if (fill) fillForm({ ...view.values, ...view }, picture);
}

// --- guided tour -----------------------------------------------------------------------------------------------------------

const showTourStep = handler(async (index) => {
  const steps = state.about.tour;
  const step = steps[index];
  const panel = $("tour-panel");
  if (!generating?.tour) requireIdle(); // a run of the visitor's own is not stopped
  const stepButton = (to, text) => (to in steps ? button(text, () => showTourStep(to), { class: text === "Next" ? "primary" : "" }) : null);
  panel.replaceChildren(el("h2", {}, `${index + 1} of ${steps.length}: ${step.title}`), el("p", {}, step.text),
    ...(step.embedded_text ? [el("p", { class: "embedded-text" }, step.embedded_text)] : []),
    el("div", { class: "actions" }, stepButton(index - 1, "Back"), stepButton(index + 1, "Next"), button("Close", closeTour)));
  panel.hidden = false;
  panel.scrollIntoView();
  await forPlace(panel, endGrid());
  fillForm(step.grid, step.image);
  await forPlace(panel, runGrid("run", { ...formValues(), tour: true }, false));
  const cell = state.view.cells[step.cell];
  if (cell.has_traces) {
    openAnswer(step.cell);
    await openTokens(state.view, step.cell, step.token);
  }
  panel.scrollIntoView(); // openTokens has scrolled to the tokens
});

function closeTour() {
  release($("tour-panel"));
  $("tour-panel").hidden = true;
}

// --- start -----------------------------------------------------------------------------------------------------------------

$("grid-form").addEventListener("submit", (event) => {
  event.preventDefault();
  handler(() => runGrid("run", formValues()))(event);
});
$("stop-all").addEventListener("click", handler(stopGrid));
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
  greyOutIgnored(state.about);
  estimateSoon();
  await Promise.all([openAddress(), listRuns()]);
})();
