// The page's frame: what is run, the run under way, the tour. Cards, tokens, figures and kept runs are rooms beside it.
import { $, ask, button, el, guarded, post, say, stream } from "./dom.js";
import { layOut, showCells, take } from "./cards.js";
import { measures } from "./figures.js";
import { listKept, runActions } from "./kept.js";
import { AXES, state } from "./state.js";
import { closeTokens, openTokens } from "./tokens.js";

let picture = null; // an example's name, a data URL, or null

// --- what to run -----------------------------------------------------------------------------------------------------------

function list(id) {
  const parts = $(id).value.split(/[,;\s]+/).filter(Boolean);
  return parts.map((part) => {
    if (part === "" || Number.isNaN(Number(part))) throw new Error(`${$(id).labels[0].firstChild.textContent.trim()}: “${part}” is no number.`);
    return Number(part);
  });
}

function grid() {
  const values = { prompt: $("prompt").value, max_tokens: Number($("max_tokens").value) };
  for (const axis of AXES) values[axis] = list(axis);
  return values;
}

function inWords(line) {
  const { cells, tokens, prefills, seconds } = line.estimate;
  const time = seconds == null ? "" : `, about ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const reads = prefills === 1 ? "once" : `${prefills} times`;
  return [`${cells} ${cells === 1 ? "cell" : "cells"}, ${tokens.toLocaleString("en")} tokens at most${time}; the prompt is read ${reads}.`, ...line.notes].join(" ");
}

let asked = 0;
let pause;
function estimateSoon() {
  clearTimeout(pause);
  pause = setTimeout(async () => {
    const mine = ++asked;
    let text, wrong = false;
    try {
      text = inWords(await post("estimate", grid()));
    } catch (error) {
      [text, wrong] = [error.message, true];
    }
    if (mine !== asked) return;
    $("estimate").textContent = text;
    $("estimate").classList.toggle("wrong", wrong);
    $("run").disabled = wrong || state.live;
  }, 150);
}

function choosePicture(chosen) {
  picture = chosen;
  for (const thumb of $("thumbs").children) thumb.setAttribute("aria-pressed", String(thumb.dataset.name === String(chosen)));
}

const thumb = (name, label, address) =>
  el("button", { type: "button", "data-name": name, "aria-label": label, onclick: () => choosePicture(name) }, el("img", { src: address, alt: "" }));

function layOutPictures() {
  $("pictures").hidden = !state.about.takes_images;
  const none = button("None", () => choosePicture(null), { "data-name": "null" });
  $("thumbs").replaceChildren(none, ...state.about.example_images.map((name) => thumb(name, name.replace(/\.\w+$/, ""), `/explore/examples/${name}`)));
  choosePicture(state.about.example_images.includes("dog.png") ? "dog.png" : null);
}

$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {
    $("thumbs").querySelector(".own")?.remove();
    const own = thumb(reader.result, file.name, reader.result);
    own.classList.add("own");
    $("thumbs").append(own);
    choosePicture(reader.result);
    $("file").value = "";
  };
  reader.readAsDataURL(file);
});

// --- a run -----------------------------------------------------------------------------------------------------------------

function live(on) {
  state.live = on;
  $("stop-all").hidden = !on;
  $("run").disabled = on;
}

// Runs a grid and shows it as it comes.
export async function follow(path, body) {
  if (state.live) throw new Error("A run is under way; stop it first.");
  clear();
  live(true);
  estimateSoon(); // the tour fills in values without a key pressed
  const done = new Set();
  let count = 0;
  const title = () => ($("run-title").textContent = `${done.size} of ${count} ${count === 1 ? "answer" : "answers"}`);
  try {
    await stream(path, body, (line) => {
      if (line.event === "start") {
        [state.id, count] = [line.run, line.cells.length];
        title();
        layOut(line.cells);
      } else if (line.event === "cell") {
        take(line);
        if (line.phase === "done") done.add(line.cell);
        title();
      } else show(line.view);
    });
  } finally {
    live(false);
    await listKept();
    estimateSoon();
  }
}

function clear() {
  closeTokens();
  [state.view, state.picked] = [null, []];
  for (const panel of ["compare-panel", "measures-panel"]) $(panel).hidden = true;
  $("run-actions").replaceChildren();
}

// A finished run, just now or opened again.
export function show(view) {
  clear();
  [state.view, state.id] = [view, view.id];
  $("run-title").textContent = view.title;
  showCells(view);
  runActions(view);
  measures(view);
}

// --- tour ------------------------------------------------------------------------------------------------------------------

const tour = guarded(async (at) => {
  const steps = state.about.tour;
  const step = steps[at];
  const panel = $("tour-panel");
  const go = (to, text) => (to < 0 || to >= steps.length ? null : button(text, () => tour(to), { class: text === "Next" ? "primary" : "" }));
  panel.replaceChildren(el("h2", {}, `${at + 1} of ${steps.length}: ${step.title}`), el("p", {}, step.text),
    ...(step.embedded_text ? [el("p", { class: "here" }, step.embedded_text)] : []),
    el("div", { class: "actions" }, go(at - 1, "Back"), go(at + 1, "Next"), button("Close", () => (panel.hidden = true))));
  panel.hidden = false;
  for (const axis of AXES) $(axis).value = [step.grid[axis]].flat().join(", ");
  [$("prompt").value, $("max_tokens").value] = [step.grid.prompt, step.grid.max_tokens];
  choosePicture(state.about.takes_images ? step.image : null);
  panel.scrollIntoView();
  await follow("run", { ...step.grid, image: picture });
  const cell = state.view.cells[step.cell];
  if (cell.has_traces && !panel.hidden) await openTokens(state.view, step.cell, step.token);
  panel.scrollIntoView(); // the words, the answers below them, and then the tokens
});

// --- wiring ----------------------------------------------------------------------------------------------------------------

$("setup").addEventListener("input", estimateSoon);
$("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(() => follow("run", { ...grid(), image: picture }))();
});
$("stop-all").addEventListener("click", guarded(() => post(`live/${state.id}/stop`, {})));
$("tour").addEventListener("click", () => tour(0));

guarded(async () => {
  state.about = await ask("about");
  $("model").textContent = `Model: ${state.about.model}.`;
  $("kept-hint").textContent = `The newest ${state.about.max_kept_runs} runs are kept; when there are more, the oldest goes. Export a run that must stay.`;
  layOutPictures();
  estimateSoon();
  await listKept();
})();
