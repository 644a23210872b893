// What is told of several answers together: two compared, the measures, the heat map.
import { $, ask, el, guarded } from "./dom.js";
import { NAMES, answer, called, state, values } from "./state.js";

// --- comparison ------------------------------------------------------------------------------------------------------------

export async function pick(index, box) {
  state.picked = box.checked ? [...state.picked, index] : state.picked.filter((one) => one !== index);
  while (state.picked.length > 2) uncheck(state.picked.shift());
  if (state.picked.length < 2) return void ($("compare-panel").hidden = true);
  await compare(...state.picked);
}

function uncheck(index) {
  const card = state.cards.get(index);
  if (card) card.box.checked = false;
}

// No longer to be compared: it is gone, or about to be another answer.
export function forget(index) {
  if (!state.picked.includes(index)) return;
  uncheck(index);
  state.picked = state.picked.filter((one) => one !== index);
  $("compare-panel").hidden = true;
}

// Two answers side by side, wherever they were chosen.
export async function compareThese(a, b) {
  for (const index of state.picked) uncheck(index);
  state.picked = [a, b];
  for (const index of state.picked) state.cards.get(index).box.checked = true;
  await compare(a, b);
  $("compare-panel").scrollIntoView();
}

async function compare(a, b) {
  const view = state.view;
  const found = await ask(`runs/${view.id}/compare?a=${a}&b=${b}`);
  const side = (key) => el("p", { class: "text" }, ...found.segments.filter((part) => part[key]).map((part) => (part.kind === "same" ? part[key] : el("mark", {}, part[key]))));
  const columns = [["a", a], ["b", b]].map(([key, index]) => {
    const cell = answer(view, index);
    const seen = found.divergence?.[key];
    const rows = seen?.candidates.map((c) => el("tr", { class: c.cut_by ? "cut" : "" }, el("td", {}, c.text), el("td", {}, `${(100 * c.raw).toFixed(1)} %`), el("td", {}, c.cut_by ? `cut by ${NAMES[c.cut_by] ?? c.cut_by}` : `${(100 * c.final).toFixed(1)} %`)));
    return el("div", {}, el("h3", {}, `${called(cell)[0].toUpperCase()}${called(cell).slice(1)}`), el("p", { class: "hint" }, values(cell)), side(key),
      seen && el("p", {}, seen.text == null ? "It had ended here." : `It took “${seen.text}”${seen.draw == null ? "" : `, drawn with ${seen.draw.toFixed(4)}`}.`),
      rows?.length ? el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `What ${called(cell)} saw there` }, el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Saw"), el("th", {}, "model"), el("th", {}, "after the filters"))), el("tbody", {}, ...rows))) : null);
  });
  const summary = found.same ? "Both answers are the same." : found.divergence ? `They part at token ${found.divergence.index + 1}. ${found.divergence.cause}` : "They differ.";
  $("compare-panel").replaceChildren(el("h2", {}, "Two answers"), el("p", { id: "parting" }, summary), el("div", { class: "two" }, ...columns));
  $("compare-panel").hidden = false;
}

// --- measures --------------------------------------------------------------------------------------------------------------

export function measures(view) {
  const head = [...view.grouped_by.map((axis) => NAMES[axis]), "answers", ...view.measures.map((m) => m.label)];
  const rows = view.groups.map((group) => el("tr", {}, ...[...Object.values(group.values), `${group.cells}${group.missing ? ` of ${group.cells + group.missing}` : ""}`, ...group.texts].map((text) => el("td", {}, text))));
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of measures" },
    el("table", {}, el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows)));
  const help = el("details", {}, el("summary", {}, "What these measure"), el("dl", {}, ...view.measures.flatMap((m) => [el("dt", {}, m.label), el("dd", {}, m.help)])));
  $("measures-panel").replaceChildren(el("h2", {}, "Measures"), el("p", { class: "hint" }, "Over complete answers of the grid; those that were stopped or failed are left out."), table, help);
  if (view.varied.length >= 2) $("measures-panel").append(heatMap(view));
  $("measures-panel").hidden = false;
}

function heatMap(view) {
  const select = (id, text, options, value) => el("label", {}, `${text} `, el("select", { id, onchange: guarded(draw) },
    ...options.map(([key, name]) => el("option", { value: key, selected: key === value }, name))));
  const axes = view.varied.map((axis) => [axis, NAMES[axis]]);
  const place = el("div", { id: "heat", tabindex: "0", role: "region", "aria-label": "Heat map" });
  const box = el("div", {}, el("h3", {}, "Heat map"), el("div", { class: "actions" },
    select("heat-measure", "of", view.measures.map((m) => [m.name, m.label]), "length"),
    select("heat-rows", "down", axes, axes[0][0]), select("heat-columns", "across", axes, axes[1][0])), place);
  async function draw() {
    const [measure, rows, columns] = ["heat-measure", "heat-rows", "heat-columns"].map((id) => box.querySelector(`#${id}`).value);
    if (rows === columns) return void place.replaceChildren("Choose two different axes.");
    const found = await ask(`runs/${view.id}/heat?${new URLSearchParams({ measure, rows, columns })}`);
    place.replaceChildren(el("table", { class: "heat" },
      el("thead", {}, el("tr", {}, el("td", {}, `${NAMES[rows]} ↓ ${NAMES[columns]} →`), ...found.columns.map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, ...found.cells.map((row, at) => el("tr", {}, el("th", { scope: "row" }, found.rows[at]),
        ...row.map((cell) => el("td", { style: cell.shade == null ? "" : `--shade: ${cell.shade.toFixed(3)}` }, cell.text)))))));
  }
  guarded(draw)();
  return box;
}
