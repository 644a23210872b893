// The page's frame: what is run, the cells as they stream, measures, comparison, tour. Token view and kept runs are rooms beside it.
import { $, ask, button, el, guarded, post, say, stream } from "./dom.js";
import { closeTokens, openTokens } from "./tokens.js";
import { listKept, runActions } from "./kept.js";

export const state = { about: null, view: null, id: null, live: false, picked: [], cards: [] };
const AXES = ["temperature", "top_p", "top_k", "seed"];
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

function layOutPictures() {
  $("pictures").hidden = !state.about.images;
  const none = button("None", () => { $("file").value = ""; choosePicture(null); }, { "data-name": "null" });
  const thumbs = state.about.pictures.map((name) =>
    el("button", { type: "button", "data-name": name, "aria-label": name.replace(/\.\w+$/, ""), onclick: () => choosePicture(name) },
      el("img", { src: `/explore/files/${name}`, alt: "" })));
  $("thumbs").replaceChildren(none, ...thumbs);
  choosePicture(state.about.pictures.includes("dog.png") ? "dog.png" : null);
}

$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => choosePicture(reader.result);
  reader.readAsDataURL(file);
});

// --- cells -----------------------------------------------------------------------------------------------------------------

const label = (cell) => `T ${cell.temperature} · p ${cell.top_p} · k ${cell.top_k} · seed ${cell.seed}`;
const PHASES = { queued: "queued", waiting: "in the queue", reading: "reading the prompt", writing: "writing", done: "done" };

function layOut(cells) {
  state.cards = cells.map((cell, index) => {
    const text = el("div", { class: "text" });
    const status = el("p", { class: "status" });
    const acts = el("div", { class: "actions" });
    const card = el("article", { class: "cell", "data-cell": index, "aria-label": `Cell ${index + 1}: ${label(cell)}` },
      el("h3", {}, label(cell)), text, status, acts);
    return { card, text, status, acts };
  });
  $("grid").replaceChildren(...state.cards.map(({ card }) => card));
  $("grid-panel").hidden = false;
}

function take(line) {
  if (line.event === "cell") {
    const { card, text, status, acts } = state.cards[line.cell];
    text.append(line.text);
    const place = line.phase === "waiting" && line.position ? `, number ${line.position}` : "";
    status.textContent = line.error ?? `${PHASES[line.phase]}${place}${line.tokens ? ` · ${line.tokens} tokens` : ""}`;
    card.dataset.phase = line.phase;
    if (line.phase === "done") acts.replaceChildren();
    else if (!acts.children.length) acts.append(button("Stop", guarded(() => post(`runs/${state.id}/stop`, { cell: line.cell })), { class: "small" }));
  } else if (line.event === "end") {
    show(line.view);
  } else if (line.event === "error") {
    say(line.error);
  }
}

function live(on) {
  state.live = on;
  $("stop-all").hidden = !on;
  $("run").disabled = on;
  document.body.classList.toggle("live", on);
}

export async function follow(path, body) {
  if (state.live) throw new Error("A run is under way; stop it first.");
  closeTokens();
  for (const panel of ["compare-panel", "measures-panel"]) $(panel).hidden = true;
  $("run-actions").replaceChildren();
  live(true);
  try {
    await stream(path, body, (line) => {
      if (line.event === "start") {
        state.id = line.run;
        $("run-title").textContent = `${line.cells.length} ${line.cells.length === 1 ? "answer" : "answers"}`;
        layOut(line.cells);
      } else take(line);
    });
  } finally {
    live(false);
    await listKept();
    estimateSoon();
  }
}

// A finished run, just now or opened again.
export function show(view) {
  [state.view, state.id, state.picked] = [view, view.id, []];
  $("run-title").textContent = view.title;
  layOut(view.cells);
  view.cells.forEach((cell, index) => {
    const { card, text, status, acts } = state.cards[index];
    text.textContent = cell.text;
    status.textContent = cell.error ?? `${cell.ended} · ${cell.facts}`;
    Object.assign(card.dataset, { phase: "done", outcome: cell.outcome ?? "none" });
    const chat = `/?${new URLSearchParams({ temperature: cell.temperature, top_p: cell.top_p, top_k: cell.top_k, seed: cell.seed })}`;
    const failed = cell.outcome === "error" || cell.outcome === "cancelled" || cell.outcome === null;
    acts.append(
      cell.traced ? button("Tokens", guarded(() => openTokens(view, index)), { class: "small" }) : el("span", { class: "hint" }, why(cell)),
      el("label", { class: "small" }, el("input", { type: "checkbox", onchange: guarded((event) => pick(index, event.target)) }), " compare"),
      button(failed ? "Run again" : "Repeat", guarded(() => rerun(index)), { class: "small" }),
      el("a", { href: chat, class: "small use" }, "Use in chat"));
  });
  runActions(view);
  measures(view);
}

function why(cell) {
  return state.about.why_no_tokens ?? (cell.text ? "No record of tokens." : "");
}

async function rerun(index) {
  if (state.live) throw new Error("A run is under way; stop it first.");
  const { text, acts } = state.cards[index];
  text.textContent = "";
  acts.replaceChildren();
  closeTokens();
  await stream(`runs/${state.id}/cells/${index}/rerun`, {}, (line) => {
    if (line.event === "end") show(line.view);
    else {
      text.append(line.text);
      state.cards[index].status.textContent = line.error ?? PHASES[line.phase];
    }
  });
}

// --- comparison ------------------------------------------------------------------------------------------------------------

async function pick(index, box) {
  state.picked = box.checked ? [...state.picked, index] : state.picked.filter((one) => one !== index);
  while (state.picked.length > 2) {
    const dropped = state.picked.shift();
    state.cards[dropped].acts.querySelector("input").checked = false;
  }
  if (state.picked.length < 2) return void ($("compare-panel").hidden = true);
  const [a, b] = state.picked;
  const found = await ask(`runs/${state.id}/compare?a=${a}&b=${b}`);
  const side = (key) => el("p", { class: "text" }, ...found.parts.map((part) => (part.kind === "same" ? part[key] : el("mark", {}, part[key]))));
  const columns = ["a", "b"].map((key, at) => {
    const seen = found.parting?.[key];
    const rows = seen?.candidates.map((c) => el("tr", { class: c.cut_by ? "cut" : "" }, el("td", {}, c.text), el("td", {}, `${(100 * c.raw).toFixed(1)} %`), el("td", {}, c.cut_by ? `cut by ${c.cut_by}` : `${(100 * c.final).toFixed(1)} %`)));
    return el("div", {}, el("h3", {}, label(state.view.cells[[a, b][at]])), side(key),
      seen && el("p", {}, seen.text == null ? "It had ended here." : `It took “${seen.text}”${seen.draw == null ? "" : `, drawn with ${seen.draw.toFixed(4)}`}.`),
      rows?.length ? el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Saw"), el("th", {}, "raw"), el("th", {}, "final"))), el("tbody", {}, ...rows)) : null);
  });
  const summary = found.same ? "Both answers are the same." : found.parting ? `They part at token ${found.parting.index + 1}. ${found.parting.cause}` : "They differ.";
  $("compare-panel").replaceChildren(el("h2", {}, "Two answers"), el("p", { id: "parting" }, summary), el("div", { class: "two" }, ...columns));
  $("compare-panel").hidden = false;
}

// --- measures --------------------------------------------------------------------------------------------------------------

function measures(view) {
  const head = [...view.grouped_by, "answers", ...view.measures.map((m) => m.label)];
  const rows = view.groups.map((group) => el("tr", {}, ...[...Object.values(group.values), String(group.cells), ...group.texts].map((text) => el("td", {}, text))));
  const titles = view.measures.map((m) => m.help);
  const cells = head.map((text, at) => el("th", { scope: "col", title: titles[at - view.grouped_by.length - 1] }, text));
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of measures" }, el("table", {}, el("thead", {}, el("tr", {}, ...cells)), el("tbody", {}, ...rows)));
  $("measures-panel").replaceChildren(el("h2", {}, "Measures"), table);
  if (view.varied.length >= 2) $("measures-panel").append(heatMap(view));
  $("measures-panel").hidden = false;
}

function heatMap(view) {
  const select = (id, text, options, value) => el("label", {}, `${text} `, el("select", { id, onchange: guarded(draw) },
    ...options.map(([key, name]) => el("option", { value: key, selected: key === value }, name))));
  const axes = view.varied.map((axis) => [axis, axis]);
  const place = el("div", { id: "heat", tabindex: "0", role: "region", "aria-label": "Heat map" });
  const box = el("div", {}, el("div", { class: "actions" },
    select("heat-measure", "Heat map of", view.measures.map((m) => [m.name, m.label]), "length"),
    select("heat-rows", "down", axes, axes[0][0]), select("heat-columns", "across", axes, axes[1][0])), place);
  async function draw() {
    const [measure, rows, columns] = ["heat-measure", "heat-rows", "heat-columns"].map((id) => box.querySelector(`#${id}`).value);
    if (rows === columns) return void place.replaceChildren("Choose two different axes.");
    const found = await ask(`runs/${view.id}/heat?${new URLSearchParams({ measure, rows, columns })}`);
    place.replaceChildren(el("table", { class: "heat" },
      el("thead", {}, el("tr", {}, el("td", {}, `${rows} ↓ ${columns} →`), ...found.columns.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, ...found.cells.map((row, at) => el("tr", {}, el("th", { scope: "row" }, found.rows[at]),
        ...row.map((cell) => el("td", { style: cell.shade == null ? "" : `--shade: ${cell.shade.toFixed(3)}` }, cell.text)))))));
  }
  guarded(draw)();
  return box;
}

// --- tour ------------------------------------------------------------------------------------------------------------------

const tour = guarded(async (at) => {
  const steps = state.about.tour;
  const step = steps[at];
  const panel = $("tour-panel");
  const go = (to, text) => (to < 0 || to >= steps.length ? null : button(text, () => tour(to), { class: text === "Next" ? "primary" : "" }));
  panel.replaceChildren(el("h2", {}, `${at + 1} of ${steps.length}: ${step.title}`), el("p", {}, step.text),
    step.here ? el("p", { class: "here" }, step.here) : null,
    el("div", { class: "actions" }, go(at - 1, "Back"), go(at + 1, "Next"), button("Close", () => (panel.hidden = true))));
  panel.hidden = false;
  for (const axis of AXES) $(axis).value = [step.grid[axis]].flat().join(", ");
  [$("prompt").value, $("max_tokens").value] = [step.grid.prompt, step.grid.max_tokens];
  choosePicture(state.about.images ? step.image : null);
  panel.scrollIntoView();
  await follow("run", { ...step.grid, image: picture });
  const cell = state.view.cells[step.cell];
  if (cell.traced && !panel.hidden) await openTokens(state.view, step.cell, step.token);
});

// --- wiring ----------------------------------------------------------------------------------------------------------------

$("setup").addEventListener("input", estimateSoon);
$("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(() => follow("run", { ...grid(), image: picture }))();
});
$("stop-all").addEventListener("click", guarded(() => post(`runs/${state.id}/stop`, {})));
$("tour").addEventListener("click", () => tour(0));

guarded(async () => {
  state.about = await ask("about");
  $("model").textContent = state.about.model;
  layOutPictures();
  estimateSoon();
  await listKept();
})();
