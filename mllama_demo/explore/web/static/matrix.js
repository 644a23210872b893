// The answers of a grid as a matrix of small cells. One axis goes across, one down; the further ones make groups of columns.
// A cell opens under its row. Neighbours in a row with the same answer are one cell.
import { $, el } from "./dom.js";
import { endComparison, fillDetail, showLiveAnswer } from "./detail.js";
import { defaultLayout, distinct, distinctCount, groupsOf, sameAnswers, variedAxes } from "./layout.js";
import { AXES, AXIS_NAMES, answerAt, plural, splitAt, state, valuesText } from "./state.js";
import { closeTokens } from "./tokens.js";

const PHASES = { queued: "queued", waiting: "in the queue", reading: "reading the prompt", writing: "writing", done: "done" };
const [NARROWEST_CELL, NARROWEST_CELL_ON_A_PHONE, HEADER_WIDTH, LINE_HEIGHT] = [88, 58, 40, 15.6]; // pixels
const QUIET_OUTCOMES = ["end_of_turn", "stop_string", "max_tokens", "context_full"];
let layout = { rows: null, columns: null };
let groupsAbreast = 0;

const buttonOf = (index) => document.querySelector(`[data-cells~="${index}"]`);

// --- layout ----------------------------------------------------------------------------------------------------------------

// Shows the cells of a run that begins.
export function startMatrix(cells) {
  closeAnswer();
  Object.assign(state, { cells, view: null, comparing: null });
  state.live = new Map(cells.map((_, index) => [index, { text: "", phase: "queued", status: PHASES.queued, stop: [state.id, index] }]));
  layout = defaultLayout(cells);
  showMatrix();
}

// Shows a finished run.
export function showFinishedMatrix(view) {
  const sameCells = state.cells.length === view.cells.length && state.cells.every((cell, index) => valuesText(cell) === valuesText(view.cells[index]));
  if (!sameCells) layout = defaultLayout(view.cells);
  Object.assign(state, { cells: view.cells, view });
  state.live.clear();
  showMatrix();
}

// keepDetail: whether the open answer stays as it is, with its tokens; otherwise it is drawn again.
export function showMatrix({ keepDetail = false } = {}) {
  const open = state.open;
  const detail = document.querySelector(".detail");
  detail?.remove();
  const { cells, view } = state;
  const groups = groupsOf(cells, layout);
  const columns = groups[0].rows[0].length;
  groupsAbreast = abreast(columns, groups.length);
  const bands = [];
  for (let at = 0; at < groups.length; at += groupsAbreast) bands.push(groups.slice(at, at + groupsAbreast));
  const same = view ? sameAnswers(view.cells) : new Map();
  const rows = bands.length * groups[0].rows.length;
  const lines = Math.max(3, Math.min(12, Math.floor((window.innerHeight - 190 - 30 * bands.length) / rows / LINE_HEIGHT - 1.9)));
  $("grid").style.setProperty("--lines", lines);
  $("grid").classList.toggle("dense", columns * Math.min(groupsAbreast, groups.length) > 6);
  $("grid").replaceChildren(...bands.map((band) => bandTable(band, same)));
  showAxes(cells);
  showWhyNoTokens(view);
  showBranches();
  $("grid-panel").hidden = false;
  if (detail && keepDetail) return placeDetail(detail, open);
  state.open = null;
  if (open != null && buttonOf(open)) openAnswer(open);
}

// One sentence for all cells where no answer has a record of its tokens.
function showWhyNoTokens(view) {
  const missing = view ? view.cells.some((cell) => cell.text) && !view.cells.some((cell) => cell.has_traces) : true;
  const reason = missing ? state.about.why_no_token_view ?? (view && "The backend sent no probabilities with these answers, so there is no token view.") : null;
  Object.assign($("no-token-view"), { textContent: reason ?? "", hidden: !reason });
}

// How many groups of columns stand side by side. All rows of groups have the same number, as far as possible.
function abreast(columns, groups) {
  const width = $("grid").clientWidth || document.documentElement.clientWidth - 100;
  const narrowest = window.innerWidth <= 600 ? NARROWEST_CELL_ON_A_PHONE : NARROWEST_CELL;
  const most = Math.max(1, Math.floor((width - HEADER_WIDTH) / narrowest / columns));
  return Math.ceil(groups / Math.ceil(groups / most));
}

// Choices for the axes across and down, and the values that all cells have in common.
function showAxes(cells) {
  const varied = variedAxes(cells);
  const choice = (key, other) => el("select", { id: `axis-${key}`, onchange: (event) => {
    if (event.target.value === layout[other]) layout[other] = layout[key];
    layout[key] = event.target.value;
    showMatrix({ keepDetail: true });
    $(event.target.id).focus();
  } }, ...varied.map((axis) => el("option", { value: axis, selected: axis === layout[key] }, AXIS_NAMES[axis])));
  const fixed = AXES.filter((axis) => !varied.includes(axis));
  const answers = state.view ? distinctCount(state.view.cells) : 0;
  const counted = state.view && cells.length > 1 ? `${answers === 1 ? "One answer" : `${answers} different answers`} in ${cells.length} cells. ` : "";
  const text = `${counted}${varied.length && fixed.length ? `The same for all: ${valuesText(cells[0], fixed)}.` : varied.length ? "" : `${valuesText(cells[0])}.`}`;
  $("axes").replaceChildren(el("p", { class: "hint", id: "fixed-values" }, text),
    ...(varied.length > 1 ? [el("label", {}, "Across ", choice("columns", "rows")), el("label", {}, "Down ", choice("rows", "columns"))] : []));
}

function bandTable(band, same) {
  const { cells } = state;
  const columnValues = layout.columns ? distinct(cells, layout.columns) : [null];
  const headed = layout.rows != null;
  const grouped = Object.keys(band[0].values).length > 0;
  const head = [];
  if (grouped) head.push(el("tr", {}, headed && el("td", { class: "corner" }),
    ...band.map(({ values }) => el("th", { scope: "colgroup", colspan: columnValues.length, class: "group-start" }, Object.entries(values).map(([axis, value]) => `${AXIS_NAMES[axis]} ${value}`).join(" · ")))));
  if (layout.columns) head.push(el("tr", {}, headed && el("td", { class: "corner" }, `${AXIS_NAMES[layout.rows]} ↓ ${AXIS_NAMES[layout.columns]} →`),
    ...band.flatMap(() => columnValues.map((value, at) => el("th", { scope: "col", class: at ? "" : "group-start" }, headed ? String(value) : `${AXIS_NAMES[layout.columns]} ${value}`)))));
  const rowValues = layout.rows ? distinct(cells, layout.rows) : [null];
  const body = rowValues.map((value, row) => el("tr", {},
    headed && el("th", { scope: "row" }, layout.columns ? String(value) : `${AXIS_NAMES[layout.rows]} ${value}`),
    ...band.flatMap((group) => mergedCells(group.rows[row], same).map((indices, at) => el("td", { colspan: indices.length, class: at ? "" : "group-start" }, cellButton(indices, same))))));
  return el("div", { class: `scroll matrix${layout.columns ? "" : " list"}`, tabindex: "0", role: "region", "aria-label": "Answers by value" }, el("table", {}, el("thead", {}, ...head), el("tbody", {}, ...body)));
}

// Lists of neighbouring indices with the same answer.
function mergedCells(indices, same) {
  const merged = [];
  for (const index of indices) {
    const last = merged.at(-1);
    if (last && same.has(index) && same.get(last[0])?.letter === same.get(index).letter) last.push(index);
    else merged.push([index]);
  }
  return merged;
}

function cellButton(indices, same) {
  const [index] = indices;
  const live = state.live.get(index);
  const cell = answerAt(state.view, index);
  const group = same.get(index);
  const quiet = !live && QUIET_OUTCOMES.includes(cell.outcome);
  const status = live?.status ?? cell.error ?? cell.outcome_text;
  return el("button", { type: "button", class: "cell", "data-cells": indices.join(" "), "data-phase": live?.phase ?? "done", "data-outcome": live ? null : cell.outcome ?? "none",
    "data-same": group?.letter, "aria-expanded": "false", onclick: (event) => pressCell(event, indices), onmouseenter: () => highlight(group?.letter), onmouseleave: () => highlight(null), onfocus: () => highlight(group?.letter), onblur: () => highlight(null) },
    el("span", { class: "cell-head" }, el("span", { class: "number" }, cell.name), indices.length > 1 ? el("span", { class: "count" }, `${indices.length} cells`) : null,
      group ? el("span", { class: "same", title: `${group.indices.length} cells have this answer` }, `${group.letter} ×${group.indices.length}`) : null),
    el("span", { class: "text", dir: "auto" }, live?.text ?? cell.text), el("span", { class: "status", hidden: quiet }, status ?? ""));
}

function highlight(letter) {
  for (const cell of document.querySelectorAll(".cell[data-same]")) cell.classList.toggle("highlighted", cell.dataset.same === letter);
}

// --- generation ------------------------------------------------------------------------------------------------------------

// Applies a cell event to an answer that is being generated. The page shows it when it shows the run of the answer.
// run: the id of the run. index: of the answer. live: see state.js. stop: the id and the cell that its stop button stops.
export function applyCellEvent(event, { run, index, live, stop }) {
  const position = event.phase === "waiting" && event.position ? `, number ${event.position}` : "";
  const status = event.error ?? `${PHASES[event.phase]}${position}${event.tokens ? ` · ${plural(event.tokens, "token")}` : ""}`;
  const short = event.error ?? { waiting: `queue: ${event.position}`, reading: "reading", writing: plural(event.tokens, "token") }[event.phase] ?? status;
  Object.assign(live, { text: live.text + event.text, phase: event.phase, status, stop: event.phase === "done" ? null : stop });
  if (state.id !== run) return;
  state.live.set(index, live);
  const button = buttonOf(index);
  if (button) {
    button.dataset.phase = event.phase;
    button.querySelector(".text").textContent = live.text;
    Object.assign(button.querySelector(".status"), { textContent: short, hidden: QUIET_OUTCOMES.includes(event.outcome) });
  }
  if (state.open === index) showLiveAnswer(live);
}

// Ends the answers of the grid whose connection broke off.
export function breakOffAnswers() {
  for (const [index, live] of state.live)
    if (live.phase !== "done") applyCellEvent({ phase: "done", text: "", error: "broken off" }, { run: state.id, index, live });
}

// --- the open answer -------------------------------------------------------------------------------------------------------

function pressCell(event, indices) {
  if (indices.includes(state.open) && state.comparing == null) return closeAnswer();
  openAnswer(indices[0]);
  const detail = document.querySelector(".detail");
  detail.scrollIntoView({ block: "nearest" });
  if (event.detail === 0) detail.focus({ preventScroll: true }); // pressed with the keyboard; Escape leads back
}

// Opens an answer under its row; in a comparison, beside the answer that it is compared with.
export function openAnswer(index) {
  const compareWith = state.comparing;
  if (state.open != null) closeAnswer();
  state.open = index;
  const body = el("div", { class: "detail", role: "group", "aria-label": "Open answer", tabindex: "-1", "data-messages": "", onkeydown: (event) => event.key === "Escape" && closeAnswer(true) });
  placeDetail(body, index);
  fillDetail(body, index, compareWith === index ? null : compareWith);
}

function placeDetail(body, index) {
  const button = buttonOf(index);
  button.setAttribute("aria-expanded", "true");
  const row = button.closest("tr");
  if (row) row.after(el("tr", { class: "detail-row" }, el("td", { colspan: [...row.children].reduce((sum, one) => sum + one.colSpan, 0) }, body)));
  else button.after(body);
}

export function closeAnswer(focus = false) {
  closeTokens();
  const button = state.open == null ? null : buttonOf(state.open);
  document.querySelector(".detail-row, .detail")?.remove();
  button?.setAttribute("aria-expanded", "false");
  if (focus) button?.focus();
  state.open = null;
}

// --- branches --------------------------------------------------------------------------------------------------------------

export const branchOrigin = (view, branch) => `from ${branch.parent < view.cells.length ? "cell" : "branch"} ${branch.parent_name}, with “${branch.token.trim() || branch.token}” as token ${branch.position + 1}`;

function branchText({ text, shared }) {
  const [before, own] = splitAt(text, shared);
  return el("span", { class: "text", dir: "auto" }, el("span", { class: "shared" }, before), own);
}

export function showBranches() {
  const branches = state.view?.branches ?? [];
  const detail = $("branches").querySelector(".detail"); // of a branch that another branch leaves
  $("branches").replaceChildren(el("h3", {}, "Branches"), el("p", { class: "hint" }, "Answers that go on from another candidate, with the same random numbers from there on."),
    ...branches.map((branch) => el("button", { type: "button", class: "cell branch", "data-cells": branch.index, "data-phase": "done", "data-outcome": branch.outcome ?? "none", "aria-expanded": "false", onclick: (event) => pressCell(event, [branch.index]) },
      el("span", { class: "cell-head" }, el("span", { class: "number" }, branch.name), el("span", { class: "hint" }, branchOrigin(state.view, branch))),
      branchText(branch))));
  $("branches").hidden = !branches.length;
  if (detail) placeDetail(detail, state.open);
}

// Arrow keys move from cell to cell, to the nearest one in that direction.
const DIRECTIONS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
$("grid").addEventListener("keydown", (event) => {
  const direction = DIRECTIONS[event.key];
  if (!direction || !event.target.matches(".cell")) return;
  const centre = (cell) => { const box = cell.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; };
  const from = centre(event.target);
  const nearest = [...$("grid").querySelectorAll(".cell")].map((cell) => {
    const [dx, dy] = centre(cell).map((at, i) => at - from[i]);
    const [along, aside] = direction[0] ? [dx * direction[0], Math.abs(dy)] : [dy * direction[1], Math.abs(dx)];
    return { cell, along, distance: along + 3 * aside };
  }).filter(({ along }) => along > 1).sort((a, b) => a.distance - b.distance)[0];
  if (nearest) nearest.cell.focus();
  event.preventDefault();
});

document.addEventListener("keydown", (event) => event.key === "Escape" && state.comparing != null && endComparison());

// The number of groups side by side depends on the width of the window.
new ResizeObserver(() => {
  if (!state.cells.length || $("grid-panel").hidden || state.live.size) return;
  const groups = groupsOf(state.cells, layout);
  if (abreast(groups[0].rows[0].length, groups.length) !== groupsAbreast) showMatrix({ keepDetail: true });
}).observe($("grid"));
