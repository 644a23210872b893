// The state of the page, and how answers are named.
export const AXES = ["temperature", "top_p", "top_k", "seed"];
export const AXIS_NAMES = { temperature: "temperature", top_p: "top-p", top_k: "top-k", seed: "seed" };

// about: the answer of /explore/about. id: of the displayed run. view: of that run; null while the run is being generated.
// running: whether a grid is being generated. compared: indices of the answers to compare. cards: Map from index to card.
export const state = { about: null, view: null, id: null, running: false, compared: [], cards: new Map() };

export const valuesText = (cell, axes = AXES) => axes.map((axis) => `${AXIS_NAMES[axis]} ${cell[axis]}`).join(" · ");
export const answerName = (cell) => (cell.parent == null ? `cell ${cell.name}` : `branch ${cell.name}`);
export const capitalized = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;

// The answer with this index: a cell of the grid, or a branch.
export const answerAt = (view, index) => view.cells[index] ?? view.branches.find((branch) => branch.index === index);

export function requireIdle() {
  if (state.running) throw new Error("A run is under way; stop it first.");
}
