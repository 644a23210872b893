// Two answers side by side: the words that differ, and the token at which the answers diverge.
import { $, el, handler, request } from "./dom.js";
import { AXIS_NAMES, answerAt, answerName, capitalized, state, valuesText } from "./state.js";

// The checkbox of an answer. The comparison shows the last two checked answers.
export function compareCheckbox(index) {
  return el("input", { type: "checkbox", onchange: handler((event) => {
    state.compared = event.target.checked ? [...state.compared, index] : state.compared.filter((other) => other !== index);
    while (state.compared.length > 2) uncheck(state.compared.shift());
    if (state.compared.length === 2) return showComparison();
    $("compare-panel").hidden = true;
  }) });
}

function uncheck(index) {
  const card = state.cards.get(index);
  if (card) card.checkbox.checked = false;
}

// For an answer that was deleted or will be replaced.
export function removeFromComparison(index) {
  if (!state.compared.includes(index)) return;
  uncheck(index);
  state.compared = state.compared.filter((other) => other !== index);
  $("compare-panel").hidden = true;
}

export async function compareAnswers(a, b) {
  state.compared.forEach(uncheck);
  state.compared = [a, b];
  for (const index of state.compared) state.cards.get(index).checkbox.checked = true;
  await showComparison();
  $("compare-panel").scrollIntoView();
}

async function showComparison() {
  const [{ view }, [a, b]] = [state, state.compared];
  const found = await request(`runs/${view.id}/compare?a=${a}&b=${b}`);
  const { divergence } = found;
  const summary = found.same ? "Both answers are the same." : divergence ? `They part at token ${divergence.index + 1}. ${divergence.cause}` : "They differ.";
  $("compare-panel").replaceChildren(el("h2", {}, "Two answers"), el("p", { id: "divergence" }, summary),
    el("div", { class: "columns" }, answerColumn(found, "a", answerAt(view, a)), answerColumn(found, "b", answerAt(view, b))));
  $("compare-panel").hidden = false;
}

function answerColumn({ segments, divergence }, side, cell) {
  const text = segments.filter((segment) => segment[side]).map((segment) => (segment.kind === "same" ? segment[side] : el("mark", {}, segment[side])));
  const token = divergence?.[side];
  const rows = (token?.candidates ?? []).map((c) => el("tr", { class: c.cut_by ? "cut" : "" }, el("td", {}, c.text), el("td", {}, `${(100 * c.raw).toFixed(1)} %`),
    el("td", {}, c.cut_by ? `cut by ${AXIS_NAMES[c.cut_by] ?? c.cut_by}` : `${(100 * c.final).toFixed(1)} %`)));
  const chosen = token && (token.text == null ? "It had ended here." : `It took “${token.text}”${token.draw == null ? "" : `, drawn with ${token.draw.toFixed(4)}`}.`);
  const head = el("thead", {}, el("tr", {}, ...["Saw", "model", "after the filters"].map((title) => el("th", {}, title))));
  return el("div", {}, el("h3", {}, capitalized(answerName(cell))), el("p", { class: "hint" }, valuesText(cell)), el("p", { class: "text" }, ...text),
    chosen && el("p", {}, chosen),
    rows.length ? el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `What ${answerName(cell)} saw there` }, el("table", {}, head, el("tbody", {}, ...rows))) : null);
}
