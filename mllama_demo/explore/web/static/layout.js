// Which axis of a grid goes across and which goes down; the further axes make groups. Also which answers are the same.
import { AXES } from "./state.js";

const MOST_COLUMNS_OF_A_LIST = 6; // a single axis with more values goes down

export const distinct = (cells, axis) => [...new Set(cells.map((cell) => cell[axis]))];
export const variedAxes = (cells) => AXES.filter((axis) => distinct(cells, axis).length > 1);

export function defaultLayout(cells) {
  const varied = variedAxes(cells);
  if (varied.length !== 1) return { rows: varied[0] ?? null, columns: varied[1] ?? null };
  const down = distinct(cells, varied[0]).length > MOST_COLUMNS_OF_A_LIST;
  return down ? { rows: varied[0], columns: null } : { rows: null, columns: varied[0] };
}

// The groups of a grid, one for each combination of the further axes: { values, rows }, rows being lists of indices of cells.
export function groupsOf(cells, { rows, columns }) {
  const valuesOf = (axis) => (axis ? distinct(cells, axis) : [null]);
  const further = variedAxes(cells).filter((axis) => axis !== rows && axis !== columns);
  let groups = [{}];
  for (const axis of further) groups = groups.flatMap((values) => valuesOf(axis).map((value) => ({ ...values, [axis]: value })));
  const find = (wanted) => cells.findIndex((cell) => Object.entries(wanted).every(([axis, value]) => cell[axis] === value));
  const at = (values, row, column) => find({ ...values, ...(rows && { [rows]: row }), ...(columns && { [columns]: column }) });
  return groups.map((values) => ({ values, rows: valuesOf(rows).map((row) => valuesOf(columns).map((column) => at(values, row, column))) }));
}

// Maps the index of a cell to { letter, indices } where several cells have the same answer.
export function sameAnswers(cells) {
  const byText = new Map();
  cells.forEach(({ text, error }, index) => text && !error && byText.set(text, [...(byText.get(text) ?? []), index]));
  const several = [...byText.values()].filter((indices) => indices.length > 1);
  return new Map(several.flatMap((indices, number) => indices.map((index) => [index, { letter: letters(number), indices }])));
}

export function distinctCount(cells) {
  return new Set(cells.filter(({ text, error }) => text && !error).map(({ text }) => text)).size;
}

const letters = (number) => (number < 26 ? String.fromCharCode(65 + number) : letters(Math.floor(number / 26) - 1) + letters(number % 26));
