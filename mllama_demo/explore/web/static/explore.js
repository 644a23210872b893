// The main module of the Explore page: the form, the run that is being generated, and the guided tour.
import { $, button, el, handler, post, request, streamEvents } from "./dom.js";
import { applyCellEvent, showCells, showEmptyCards } from "./cards.js";
import { showMeasures } from "./measures.js";
import { listRuns, showRunActions } from "./runs.js";
import { AXES, requireIdle, state } from "./state.js";
import { closeTokens, openTokens } from "./tokens.js";

const ESTIMATE_DELAY_MS = 150;
let image = null; // the name of an example, a data URL, or null

// --- form ------------------------------------------------------------------------------------------------------------------

function numbers(id) {
  return $(id).value.split(/[,;\s]+/).filter(Boolean).map((part) => {
    if (Number.isNaN(Number(part))) throw new Error(`${$(id).labels[0].firstChild.textContent.trim()}: “${part}” is no number.`);
    return Number(part);
  });
}

function grid() {
  const values = { prompt: $("prompt").value, max_tokens: Number($("max_tokens").value) };
  for (const axis of AXES) values[axis] = numbers(axis);
  return values;
}

function estimateText({ estimate: { cells, tokens, prefills, seconds }, notes }) {
  const time = seconds == null ? "" : `, about ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const reads = prefills === 1 ? "once" : `${prefills} times`;
  return [`${cells} ${cells === 1 ? "cell" : "cells"}, ${tokens.toLocaleString("en")} tokens at most${time}; the prompt is read ${reads}.`, ...notes].join(" ");
}

let lastEstimate = 0;
let timer;
function estimateSoon() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const number = ++lastEstimate;
    let text, invalid = false;
    try {
      text = estimateText(await post("estimate", grid()));
    } catch (error) {
      [text, invalid] = [error.message, true];
    }
    if (number !== lastEstimate) return;
    $("estimate").textContent = text;
    $("estimate").classList.toggle("invalid", invalid);
    $("run").disabled = invalid || state.running;
  }, ESTIMATE_DELAY_MS);
}

function selectImage(selected) {
  image = selected;
  for (const thumbnail of $("thumbnails").children) thumbnail.setAttribute("aria-pressed", String(thumbnail.dataset.name === String(selected)));
}

const makeThumbnail = (name, label, src) =>
  el("button", { type: "button", "data-name": name, "aria-label": label, onclick: () => selectImage(name) }, el("img", { src, alt: "" }));

function showThumbnails({ takes_images: takesImages, example_images: names }) {
  $("images").hidden = !takesImages;
  const none = button("None", () => selectImage(null), { "data-name": "null" });
  $("thumbnails").replaceChildren(none, ...names.map((name) => makeThumbnail(name, name.replace(/\.\w+$/, ""), `/explore/examples/${name}`)));
  selectImage(names.includes("dog.png") ? "dog.png" : null);
}

$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {
    $("thumbnails").querySelector(".upload")?.remove();
    const upload = makeThumbnail(reader.result, file.name, reader.result);
    upload.classList.add("upload");
    $("thumbnails").append(upload);
    selectImage(reader.result);
    $("file").value = "";
  };
  reader.readAsDataURL(file);
});

// --- run -------------------------------------------------------------------------------------------------------------------

function setRunning(running) {
  state.running = running;
  $("stop-all").hidden = !running;
  $("run").disabled = running;
}

// Generates a grid and shows the answers as they arrive.
export async function runGrid(path, body) {
  requireIdle();
  clearRun();
  setRunning(true);
  estimateSoon(); // the tour changes the form without an input event
  const done = new Set();
  let count = 0;
  const showCount = () => ($("run-title").textContent = `${done.size} of ${count} ${count === 1 ? "answer" : "answers"}`);
  try {
    await streamEvents(path, body, (event) => {
      if (event.event === "start") {
        [state.id, count] = [event.run, event.cells.length];
        showCount();
        showEmptyCards(event.cells);
      } else if (event.event === "cell") {
        applyCellEvent(event);
        if (event.phase === "done") done.add(event.cell);
        showCount();
      } else showRun(event.view);
    });
  } finally {
    setRunning(false);
    await listRuns();
    estimateSoon();
  }
}

function clearRun() {
  closeTokens();
  [state.view, state.compared] = [null, []];
  for (const panel of ["compare-panel", "measures-panel"]) $(panel).hidden = true;
  $("run-actions").replaceChildren();
}

// Shows a finished run.
export function showRun(view) {
  clearRun();
  [state.view, state.id] = [view, view.id];
  $("run-title").textContent = view.title;
  showCells(view);
  showRunActions(view);
  showMeasures(view);
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
  for (const axis of AXES) $(axis).value = [step.grid[axis]].flat().join(", ");
  [$("prompt").value, $("max_tokens").value] = [step.grid.prompt, step.grid.max_tokens];
  selectImage(state.about.takes_images ? step.image : null);
  panel.scrollIntoView();
  await runGrid("run", { ...step.grid, image });
  const cell = state.view.cells[step.cell];
  if (cell.has_traces && !panel.hidden) await openTokens(state.view, step.cell, step.token);
  panel.scrollIntoView(); // openTokens has scrolled to the tokens
});

// --- start -----------------------------------------------------------------------------------------------------------------

$("grid-form").addEventListener("input", estimateSoon);
$("grid-form").addEventListener("submit", (event) => {
  event.preventDefault();
  handler(() => runGrid("run", { ...grid(), image }))();
});
$("stop-all").addEventListener("click", handler(() => post(`live/${state.id}/stop`, {})));
$("tour").addEventListener("click", () => showTourStep(0));

handler(async () => {
  state.about = await request("about");
  $("model").textContent = `Model: ${state.about.model}.`;
  $("runs-hint").textContent = `The newest ${state.about.max_kept_runs} runs are kept; when there are more, the oldest goes. Export a run that must stay.`;
  showThumbnails(state.about);
  estimateSoon();
  await listRuns();
})();
