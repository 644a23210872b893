// The table of measures of a run, and the heat map of one measure over two axes.
import { $, el, forPlace, handler, release, request } from "./dom.js";
import { AXIS_NAMES } from "./state.js";

export function showMeasures(view) {
  const head = [...view.grouped_by.map((axis) => AXIS_NAMES[axis]), "answers", ...view.measures.map((measure) => measure.label)];
  const rows = view.groups.map((group) => {
    const count = `${group.cells}${group.missing ? ` of ${group.cells + group.missing}` : ""}`;
    return el("tr", {}, ...[...Object.values(group.values), count, ...group.texts].map((text) => el("td", {}, text)));
  });
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of measures" },
    el("table", {}, el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows)));
  const help = el("details", {}, el("summary", {}, "What these measure"),
    el("dl", {}, ...view.measures.flatMap((measure) => [el("dt", {}, measure.label), el("dd", {}, measure.help)])));
  $("measures-panel").replaceChildren(el("h2", {}, "Measures"), el("p", { class: "hint" }, "Over complete answers of the grid; those that were stopped or failed are left out."), table, help);
  if (view.varied.length >= 2) $("measures-panel").append(heatMap(view));
  $("measures-panel").hidden = false;
}

function heatMap(view) {
  const axes = view.varied.map((axis) => [axis, AXIS_NAMES[axis]]);
  const choice = (text, options, value) => el("select", { "data-label": text, onchange: handler(draw) }, ...options.map(([key, name]) => el("option", { value: key, selected: key === value }, name)));
  const measure = choice("of", view.measures.map(({ name, label }) => [name, label]), "length");
  const [rows, columns] = [choice("down", axes, axes[0][0]), choice("across", axes, axes[1][0])];
  const table = el("div", { id: "heat-map", tabindex: "0", role: "region", "aria-label": "Heat map" });
  async function draw() {
    release(table);
    if (rows.value === columns.value) return table.replaceChildren("Choose two different axes.");
    const query = new URLSearchParams({ measure: measure.value, rows: rows.value, columns: columns.value });
    const found = await forPlace(table, request(`runs/${view.id}/heat?${query}`));
    const head = [el("td", {}, `${AXIS_NAMES[rows.value]} ↓ ${AXIS_NAMES[columns.value]} →`), ...found.columns.map((text) => el("th", { scope: "col" }, text))];
    const body = found.cells.map((row, index) => el("tr", {}, el("th", { scope: "row" }, found.rows[index]),
      ...row.map((cell) => el("td", { style: cell.shade == null ? "" : `--shade: ${cell.shade.toFixed(3)}` }, cell.text))));
    table.replaceChildren(el("table", { class: "heat" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body)));
  }
  handler(draw)();
  const labels = [measure, rows, columns].map((select) => el("label", {}, `${select.dataset.label} `, select));
  return el("div", {}, el("h3", {}, "Heat map"), el("div", { class: "actions" }, ...labels), table);
}
