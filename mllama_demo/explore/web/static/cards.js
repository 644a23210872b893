// The answers of a run as cards: while they stream, at rest, one of them anew, and the branches that leave them.
import { $, ask, button, el, guarded, say, stopButton, stream } from "./dom.js";
import { closeTokens, openTokens, tokensOf } from "./tokens.js";
import { listKept, showCode } from "./kept.js";
import { forget, measures, pick } from "./figures.js";
import { AXES, NAMES, answer, called, state, values } from "./state.js";

const PHASES = { queued: "queued", waiting: "in the queue", reading: "reading the prompt", writing: "writing", done: "done" };

// --- where they stand ------------------------------------------------------------------------------------------------------

function makeCard(index, name, heading, title, level) {
  const text = el("div", { class: "text" });
  const status = el("p", { class: "status" });
  const acts = el("div", { class: "actions" });
  const card = el("article", { class: "cell", "data-cell": index, "aria-label": title },
    el("header", {}, el("span", { class: "number" }, name), el(level, {}, heading)), text, status, acts);
  const box = el("input", { type: "checkbox", onchange: guarded((event) => pick(index, event.target)) });
  const made = { card, text, status, acts, box, choice: el("label", {}, box, "compare") };
  state.cards.set(index, made);
  return made;
}

// Blank cards for the cells of a grid. The first axis that varies makes the sections, the second the columns, the others the rows.
export function layOut(cells) {
  state.cards = new Map();
  const varied = AXES.filter((axis) => cells.some((cell) => cell[axis] !== cells[0][axis]));
  const fixed = AXES.filter((axis) => !varied.includes(axis));
  const [section, across] = varied.length > 1 ? varied : [null, varied[0]];
  const shown = varied.length ? varied.filter((axis) => axis !== section) : AXES;
  const level = section ? "h4" : "h3";
  const numbered = cells.map((cell, index) => ({ cell, index }));
  const distinct = (axis) => [...new Set(cells.map((cell) => cell[axis]))];
  const row = ({ cell }) => varied.filter((axis) => axis !== section && axis !== across).map((axis) => distinct(axis).indexOf(cell[axis]));
  const byRow = (a, b) => row(a).map((place, at) => place - row(b)[at]).find(Boolean) ?? a.index - b.index;
  const parts = (section ? distinct(section) : [null]).flatMap((value) => {
    const here = numbered.filter(({ cell }) => !section || cell[section] === value).sort(byRow);
    const cards = here.map(({ cell, index }) => makeCard(index, String(index + 1), values(cell, shown), `Cell ${index + 1}: ${values(cell)}`, level).card);
    const box = el("div", { class: "cells", style: `--across: ${across ? distinct(across).length : 1}` }, ...cards);
    return section ? [el("h3", {}, `${NAMES[section][0].toUpperCase()}${NAMES[section].slice(1)} ${value}`), box] : [box];
  });
  $("grid").replaceChildren(...parts);
  $("fixed").textContent = varied.length && fixed.length ? `The same for all: ${values(cells[0], fixed)}.` : "";
  $("branches").hidden = true;
  $("grid-panel").hidden = false;
}

// --- under way -------------------------------------------------------------------------------------------------------------

// A line of a stream goes into the card. id: what is stopped, and cell: which of it.
function write({ card, text, status, acts }, line, id, cell) {
  text.append(line.text);
  const place = line.phase === "waiting" && line.position ? `, number ${line.position}` : "";
  status.textContent = line.error ?? `${PHASES[line.phase]}${place}${line.tokens ? ` · ${line.tokens} tokens` : ""}`;
  card.dataset.phase = line.phase;
  if (line.phase === "done") acts.replaceChildren();
  else if (!acts.children.length) acts.append(stopButton(id, cell));
}

export const take = (line) => write(state.cards.get(line.cell), line, state.id, line.cell);

async function rerun(index) {
  if (state.live) throw new Error("A run is under way; stop it first.");
  const mine = state.cards.get(index);
  const id = state.id;
  let job;
  let note = null;
  if (tokensOf(index)) closeTokens();
  forget(index);
  mine.text.textContent = "";
  mine.acts.replaceChildren();
  mine.choice.remove();
  delete mine.card.dataset.outcome;
  try {
    await stream(`runs/${id}/cells/${index}/rerun`, {}, (line) => {
      if (line.event === "start") job = line.run;
      else if (line.event === "cell") write(mine, line, job);
      else if (state.id === id) [state.view, note] = [line.view, line.note];
    });
  } finally {
    if (state.view?.id === id && state.cards.get(index) === mine) rest(answer(state.view, index));
  }
  if (state.view?.id === id) measures(state.view);
  await listKept();
  say(note);
}

// --- at rest ---------------------------------------------------------------------------------------------------------------

// A finished run, just now or opened again.
export function showCells(view) {
  layOut(view.cells);
  view.cells.forEach(rest);
  showBranches(view);
}

export function showBranches(view) {
  for (const index of state.cards.keys()) if (index >= view.cells.length) state.cards.delete(index);
  const cards = view.branches.map((branch) => {
    const from = `from ${branch.parent < view.cells.length ? "cell" : "branch"} ${branch.parent_name}, with “${branch.token.trim() || branch.token}” as token ${branch.position + 1}`;
    const made = makeCard(branch.index, branch.name, from, `Branch ${branch.name}, ${from}`, "h3");
    rest(branch);
    return made.card;
  });
  $("branches").replaceChildren(el("h2", {}, "Branches"), el("p", { class: "hint" }, "Answers that go on from another candidate, with the same random numbers from there on."),
    el("div", { class: "cells", style: "--across: 3" }, ...cards));
  $("branches").hidden = !cards.length;
}

function rest(cell) {
  const { card, text, status, acts, box, choice } = state.cards.get(cell.index);
  const shared = cell.shared ?? 0;
  text.replaceChildren(shared ? el("span", { class: "shared" }, cell.text.slice(0, shared)) : "", cell.text.slice(shared));
  status.textContent = cell.error ?? `${cell.outcome_text} · ${cell.details}`;
  Object.assign(card.dataset, { phase: "done", outcome: cell.outcome ?? "none" });
  const link = { class: "link" };
  card.querySelector("header").append(choice);
  box.checked = state.picked.includes(cell.index);
  const parts = [cell.has_traces ? button("Tokens", guarded(() => openTokens(state.view, cell.index)), { class: "small" }) : el("span", { class: "hint" }, why(cell))];
  if (cell.parent == null) {
    const failed = ["error", "cancelled", null].includes(cell.outcome);
    const chat = `/?${new URLSearchParams(AXES.map((axis) => [axis, cell[axis]]))}`;
    parts.push(button(failed ? "Run again" : "Repeat", guarded(() => rerun(cell.index)), link), button("Code", guarded(() => showCode(state.view, cell)), link),
      el("a", { href: chat, class: "link" }, "Use in chat"));
  } else parts.push(button("Delete", guarded(() => remove(cell)), { ...link, "aria-label": `Delete branch ${cell.name}` }));
  acts.replaceChildren(...parts);
}

function why(cell) {
  return state.about.why_no_token_view ?? (cell.text ? "No record of tokens." : "");
}

async function remove(branch) {
  if (!window.confirm(`Delete ${called(branch)}? It cannot be brought back.`)) return;
  const view = await ask(`runs/${state.id}/cells/${branch.index}`, { method: "DELETE" });
  if (tokensOf(branch.index)) closeTokens();
  forget(branch.index);
  state.view = view;
  showBranches(view);
}
