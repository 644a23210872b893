// The state of the page, and how answers are named.
export const AXES = ["temperature", "top_p", "top_k", "seed"];
export const AXIS_NAMES = { temperature: "temperature", top_p: "top-p", top_k: "top-k", seed: "seed" };

// about: the answer of /explore/about. id: of the displayed run; for a shared run, the token of its link. cells: the values of
// its cells. view: the finished run; null while it is being generated. live: Map from the index of an answer that is being
// generated to { text, phase, status, stop }. running: whether a grid is being generated. open: index of the open answer.
// comparing: index of the answer that waits for another one to be compared with.
export const state = { about: null, id: null, cells: [], view: null, live: new Map(), running: false, open: null, comparing: null };

export const valuesText = (cell, axes = AXES) => axes.map((axis) => `${AXIS_NAMES[axis]} ${cell[axis]}`).join(" · ");
export const answerName = (cell) => (cell.parent == null ? `cell ${cell.name}` : `branch ${cell.name}`);
export const capitalized = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// The answer with this index: a cell of the grid, or a branch. While a run is being generated, a cell has its values only.
export const answerAt = (view, index) => view?.cells[index] ?? view?.branches.find((branch) => branch.index === index) ?? { ...state.cells[index], index, name: String(index + 1) };

// The first characters of a text, and the rest. The server counts characters; JavaScript counts an emoji as two.
export function splitAt(text, count) {
  const characters = [...text];
  return [characters.slice(0, count).join(""), characters.slice(count).join("")];
}

export function requireIdle() {
  if (state.running) throw new Error("A run is under way; stop it first.");
}
