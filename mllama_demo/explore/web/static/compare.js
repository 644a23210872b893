// Two answers side by side: the words that differ, and the token at which the answers diverge.
import { $, el, forPlace, request } from "./dom.js";
import { endComparison } from "./detail.js";
import { AXIS_NAMES, answerAt, answerName, capitalized, state, valuesText } from "./state.js";

// Shows the comparison inside the open answer.
export async function showComparison(a, b) {
  endComparison();
  const { view } = state;
  const panel = $("compare-panel");
  const found = await forPlace(panel, request(`runs/${view.id}/compare?a=${a}&b=${b}`));
  const { divergence } = found;
  const summary = found.same ? "Both answers are the same." : divergence ? `They part at token ${divergence.index + 1}. ${divergence.cause}` : "They differ.";
  panel.replaceChildren(el("h4", {}, `${capitalized(answerName(answerAt(view, a)))} and ${answerName(answerAt(view, b))}`), el("p", { id: "divergence" }, summary),
    el("div", { class: "columns" }, answerColumn(found, "a", answerAt(view, a)), answerColumn(found, "b", answerAt(view, b))));
  panel.hidden = false;
  panel.scrollIntoView({ block: "nearest" });
}

function answerColumn({ segments, divergence }, side, cell) {
  const text = segments.filter((segment) => segment[side]).map((segment) => (segment.kind === "same" ? segment[side] : el("mark", {}, segment[side])));
  const token = divergence?.[side];
  const rows = (token?.candidates ?? []).map((c) => el("tr", { class: c.cut_by ? "cut" : "" }, el("td", {}, c.text), el("td", {}, `${(100 * c.raw).toFixed(1)} %`),
    el("td", {}, c.cut_by ? `cut by ${AXIS_NAMES[c.cut_by] ?? c.cut_by}` : `${(100 * c.final).toFixed(1)} %`)));
  const chosen = token && (token.text == null ? "It had ended here." : `It took “${token.text}”${token.draw == null ? "" : `, drawn with ${token.draw.toFixed(4)}`}.`);
  const head = el("thead", {}, el("tr", {}, ...["Saw", "model", "after the filters"].map((title) => el("th", {}, title))));
  return el("div", {}, el("h5", {}, capitalized(answerName(cell))), el("p", { class: "hint" }, valuesText(cell)), el("p", { class: "text", dir: "auto" }, ...text),
    chosen && el("p", {}, chosen),
    rows.length ? el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `What ${answerName(cell)} saw there` }, el("table", {}, head, el("tbody", {}, ...rows))) : null);
}
