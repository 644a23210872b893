// The open answer under its cell: its whole text and what can be done with it. Tokens, comparison and errors open inside.
import { $, button, el, handler, post, release, request, stopButton, streamEvents } from "./dom.js";
import { showCode } from "./code.js";
import { showComparison } from "./compare.js";
import { sameAnswers } from "./layout.js";
import { applyCellEvent, branchOrigin, closeAnswer, openAnswer, showMatrix } from "./matrix.js";
import { showMeasures } from "./measures.js";
import { listRuns } from "./runs.js";
import { answerAt, answerName, capitalized, requireIdle, state, valuesText } from "./state.js";
import { closeTokens, openTokens } from "./tokens.js";

// compareWith: index of another answer to show beside this one; null shows this answer alone.
export function fillDetail(body, index, compareWith) {
  const cell = answerAt(state.view, index);
  const live = state.live.get(index);
  body.replaceChildren(
    el("div", { class: "heading" }, el("h3", {}, capitalized(answerName(cell))), el("p", { class: "hint" }, cell.parent == null ? valuesText(cell) : `${branchOrigin(state.view, cell)} · ${valuesText(cell)}`), button("Close", () => closeAnswer(true), { class: "small" })),
    sameChoice(index) ?? "", el("div", { class: "text", dir: "auto" }), el("p", { class: "status" }), el("div", { class: "actions" }),
    el("div", { id: "compare-panel", hidden: true }), el("div", { id: "token-panel", hidden: true, tabindex: "-1" }));
  if (live) return showLiveAnswer(live);
  const text = body.querySelector(".text");
  text.classList.add("formatted");
  text.innerHTML = cell.html; // made safe by the server
  body.querySelector(".status").textContent = cell.error ?? `${cell.outcome_text} · ${cell.details}`;
  body.dataset.outcome = cell.outcome ?? "none";
  body.querySelector(".actions").append(...actions(cell));
  if (compareWith != null) handler(() => showComparison(compareWith, index))();
}

// Shows the text of an answer that is being generated.
export function showLiveAnswer({ text, status, stop }) {
  const body = document.querySelector(".detail");
  const field = body.querySelector(".text");
  field.textContent = text;
  field.classList.remove("formatted");
  body.querySelector(".status").textContent = status;
  const actions = body.querySelector(".actions");
  if (!stop) actions.replaceChildren();
  else if (!actions.querySelector(".danger")) actions.replaceChildren(stopButton(...stop));
}

// The cells with the same answer; each has its own tokens and values.
function sameChoice(index) {
  const group = state.view && sameAnswers(state.view.cells).get(index);
  if (!group) return null;
  return el("p", { class: "hint same-cells" }, "The same answer: ", ...group.indices.map((other) => button(String(other + 1), () => openAnswer(other), { class: "small", "aria-current": other === index ? "true" : null, title: valuesText(state.cells[other]) })));
}

function actions(cell) {
  const { view } = state;
  const small = { class: "small" };
  const failed = ["error", "cancelled", null].includes(cell.outcome);
  const buttons = [];
  if (cell.has_traces) buttons.push(button("Tokens", handler(() => ($("token-panel").hidden ? openTokens(view, cell.index) : closeTokens())), small));
  if (view.cells.length + view.branches.length > 1 && cell.text) buttons.push(button("Compare with …", () => startComparison(cell), small));
  if (cell.text) buttons.push(button("Use in chat", handler(() => useInChat(cell)), small));
  if (cell.parent == null) buttons.push(button("Code", handler(() => showCode(view, cell)), small));
  if (cell.parent == null && !view.shared) buttons.push(button(failed ? "Run again" : "Repeat", handler(() => rerunCell(cell.index)), small));
  if (cell.parent != null && !view.shared) buttons.push(button("Delete", handler(() => deleteBranch(cell)), { ...small, "aria-label": `Delete branch ${cell.name}` }));
  return buttons;
}

async function useInChat(cell) {
  const { address } = await post(`runs/${state.id}/cells/${cell.index}/chat`, {});
  window.location.assign(address);
}

// --- comparison ------------------------------------------------------------------------------------------------------------

function startComparison(cell) {
  state.comparing = cell.index;
  $("comparing").replaceChildren(`Choose the answer to compare with ${answerName(cell)}. `, button("Cancel", endComparison, { class: "small" }));
  $("comparing").hidden = false;
}

export function endComparison() {
  state.comparing = null;
  $("comparing").hidden = true;
}

// --- repeat and delete -----------------------------------------------------------------------------------------------------

async function rerunCell(index) {
  requireIdle();
  const { id } = state; // of the run that gets the answer; the page may show another one before it ends
  const answer = { run: id, index, live: { text: "" }, stop: null };
  let failure = null;
  closeTokens();
  release($("compare-panel"));
  $("compare-panel").hidden = true;
  applyCellEvent({ text: "", phase: "queued", tokens: 0 }, answer);
  try {
    await streamEvents(`runs/${id}/cells/${index}/rerun`, {}, (event) => {
      if (event.event === "start") answer.stop = [event.run];
      else if (event.event === "cell") applyCellEvent(event, answer);
      else {
        if (event.note) failure = new Error(event.note);
        if (state.id === id) state.view = event.view;
      }
    });
  } catch (error) {
    failure = error;
  }
  if (state.id === id) {
    state.live.delete(index);
    state.cells = state.view.cells;
    showMatrix();
    showMeasures(state.view);
  }
  await listRuns().catch(() => {}); // its failure would hide that of the answer
  if (failure && state.id === id) throw failure;
}

async function deleteBranch(branch) {
  if (!window.confirm(`Delete ${answerName(branch)}? It cannot be brought back.`)) return;
  const { id } = state;
  const view = await request(`runs/${id}/cells/${branch.index}`, { method: "DELETE" });
  if (state.id !== id) return;
  closeAnswer();
  state.view = view;
  showMatrix();
}
