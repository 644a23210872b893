// The answers of a run as cards: while they are generated, finished, repeated, and the branches below the grid.
import { $, button, el, handler, request, showMessage, stopButton, streamEvents } from "./dom.js";
import { compareCheckbox, removeFromComparison } from "./compare.js";
import { showMeasures } from "./measures.js";
import { listRuns, showCode } from "./runs.js";
import { AXES, AXIS_NAMES, answerAt, answerName, capitalized, requireIdle, state, valuesText } from "./state.js";
import { closeTokens, openTokens, showsTokensOf } from "./tokens.js";

const PHASES = { queued: "queued", waiting: "in the queue", reading: "reading the prompt", writing: "writing", done: "done" };

// --- layout ----------------------------------------------------------------------------------------------------------------

function makeCard(index, name, heading, title, level) {
  const text = el("div", { class: "text" });
  const status = el("p", { class: "status" });
  const actions = el("div", { class: "actions" });
  const element = el("article", { class: "cell", "data-cell": index, "aria-label": title },
    el("header", {}, el("span", { class: "number" }, name), el(level, {}, heading)), text, status, actions);
  const checkbox = compareCheckbox(index);
  const card = { element, text, status, actions, checkbox, compareLabel: el("label", {}, checkbox, "compare") };
  state.cards.set(index, card);
  return card;
}

// Shows empty cards for the cells of a grid. The first axis that varies makes the sections, the second the columns, the others the rows.
export function showEmptyCards(cells) {
  state.cards = new Map();
  const varied = AXES.filter((axis) => cells.some((cell) => cell[axis] !== cells[0][axis]));
  const fixed = AXES.filter((axis) => !varied.includes(axis));
  const [sectionAxis, columnAxis] = varied.length > 1 ? varied : [null, varied[0]];
  const rowAxes = varied.filter((axis) => axis !== sectionAxis && axis !== columnAxis);
  const headingAxes = varied.length ? varied.filter((axis) => axis !== sectionAxis) : AXES;
  const distinct = (axis) => [...new Set(cells.map((cell) => cell[axis]))];
  const rowOf = ({ cell }) => rowAxes.map((axis) => distinct(axis).indexOf(cell[axis]));
  const byRow = (a, b) => rowOf(a).map((row, i) => row - rowOf(b)[i]).find(Boolean) ?? a.index - b.index;
  const numbered = cells.map((cell, index) => ({ cell, index }));
  const sections = (sectionAxis ? distinct(sectionAxis) : [null]).flatMap((value) => {
    const inSection = numbered.filter(({ cell }) => !sectionAxis || cell[sectionAxis] === value).sort(byRow);
    const cards = inSection.map(({ cell, index }) => makeCard(index, String(index + 1), valuesText(cell, headingAxes), `Cell ${index + 1}: ${valuesText(cell)}`, sectionAxis ? "h4" : "h3").element);
    const box = el("div", { class: "cells", style: `--columns: ${columnAxis ? distinct(columnAxis).length : 1}` }, ...cards);
    return sectionAxis ? [el("h3", {}, `${capitalized(AXIS_NAMES[sectionAxis])} ${value}`), box] : [box];
  });
  $("grid").replaceChildren(...sections);
  $("fixed-values").textContent = varied.length && fixed.length ? `The same for all: ${valuesText(cells[0], fixed)}.` : "";
  $("branches").hidden = true;
  $("grid-panel").hidden = false;
}

// --- generation ------------------------------------------------------------------------------------------------------------

// Applies a cell event to a card. id, cell: what its stop button stops.
function updateCard({ element, text, status, actions }, event, id, cell) {
  text.append(event.text);
  const position = event.phase === "waiting" && event.position ? `, number ${event.position}` : "";
  status.textContent = event.error ?? `${PHASES[event.phase]}${position}${event.tokens ? ` · ${event.tokens} tokens` : ""}`;
  element.dataset.phase = event.phase;
  if (event.phase === "done") actions.replaceChildren();
  else if (!actions.children.length) actions.append(stopButton(id, cell));
}

export const applyCellEvent = (event) => updateCard(state.cards.get(event.cell), event, state.id, event.cell);

async function rerunCell(index) {
  requireIdle();
  const card = state.cards.get(index);
  const { id } = state;
  let stopId;
  let note = null;
  if (showsTokensOf(index)) closeTokens();
  removeFromComparison(index);
  card.text.textContent = "";
  card.actions.replaceChildren();
  card.compareLabel.remove();
  delete card.element.dataset.outcome;
  try {
    await streamEvents(`runs/${id}/cells/${index}/rerun`, {}, (event) => {
      if (event.event === "start") stopId = event.run;
      else if (event.event === "cell") updateCard(card, event, stopId);
      else if (state.id === id) [state.view, note] = [event.view, event.note];
    });
  } finally {
    if (state.view?.id === id && state.cards.get(index) === card) showFinished(answerAt(state.view, index));
  }
  if (state.view?.id === id) showMeasures(state.view);
  await listRuns();
  showMessage(note);
}

// --- finished answers ------------------------------------------------------------------------------------------------------

export function showCells(view) {
  showEmptyCards(view.cells);
  view.cells.forEach(showFinished);
  showBranches(view);
}

export function showBranches(view) {
  for (const index of state.cards.keys()) if (index >= view.cells.length) state.cards.delete(index);
  const cards = view.branches.map((branch) => {
    const from = `from ${branch.parent < view.cells.length ? "cell" : "branch"} ${branch.parent_name}, with “${branch.token.trim() || branch.token}” as token ${branch.position + 1}`;
    const card = makeCard(branch.index, branch.name, from, `Branch ${branch.name}, ${from}`, "h3");
    showFinished(branch);
    return card.element;
  });
  $("branches").replaceChildren(el("h2", {}, "Branches"), el("p", { class: "hint" }, "Answers that go on from another candidate, with the same random numbers from there on."),
    el("div", { class: "cells", style: "--columns: 3" }, ...cards));
  $("branches").hidden = !cards.length;
}

function showFinished(cell) {
  const { element, text, status, actions, checkbox, compareLabel } = state.cards.get(cell.index);
  const shared = cell.shared ?? 0;
  text.replaceChildren(shared ? el("span", { class: "shared" }, cell.text.slice(0, shared)) : "", cell.text.slice(shared));
  status.textContent = cell.error ?? `${cell.outcome_text} · ${cell.details}`;
  Object.assign(element.dataset, { phase: "done", outcome: cell.outcome ?? "none" });
  element.querySelector("header").append(compareLabel);
  checkbox.checked = state.compared.includes(cell.index);
  const link = { class: "link" };
  const tokens = cell.has_traces ? button("Tokens", handler(() => openTokens(state.view, cell.index)), { class: "small" }) : el("span", { class: "hint" }, whyNoTokens(cell));
  if (cell.parent == null) {
    const failed = ["error", "cancelled", null].includes(cell.outcome);
    const chat = `/?${new URLSearchParams(AXES.map((axis) => [axis, cell[axis]]))}`;
    actions.replaceChildren(tokens, button(failed ? "Run again" : "Repeat", handler(() => rerunCell(cell.index)), link), button("Code", handler(() => showCode(state.view, cell)), link),
      el("a", { href: chat, class: "link" }, "Use in chat"));
  } else actions.replaceChildren(tokens, button("Delete", handler(() => deleteBranch(cell)), { ...link, "aria-label": `Delete branch ${cell.name}` }));
}

function whyNoTokens(cell) {
  return state.about.why_no_token_view ?? (cell.text ? "No record of tokens." : "");
}

async function deleteBranch(branch) {
  if (!window.confirm(`Delete ${answerName(branch)}? It cannot be brought back.`)) return;
  const view = await request(`runs/${state.id}/cells/${branch.index}`, { method: "DELETE" });
  if (showsTokensOf(branch.index)) closeTokens();
  removeFromComparison(branch.index);
  state.view = view;
  showBranches(view);
}
