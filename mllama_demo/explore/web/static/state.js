// What the page shows at the moment, and how its answers are called.
export const AXES = ["temperature", "top_p", "top_k", "seed"];
export const NAMES = { temperature: "temperature", top_p: "top-p", top_k: "top-k", seed: "seed" };

// about: what the server tells once. id: of the run that is shown. view: of that run, null while it is being made. live: whether
// a run is under way. picked: indices of the answers to compare. cards: by index.
export const state = { about: null, view: null, id: null, live: false, picked: [], cards: new Map() };

export const values = (cell, axes = AXES) => axes.map((axis) => `${NAMES[axis]} ${cell[axis]}`).join(" · ");
export const called = (cell) => (cell.parent == null ? `cell ${cell.name}` : `branch ${cell.name}`);

// An answer by its index: of the grid's cells, or a branch.
export const answer = (view, index) => view.cells[index] ?? view.branches.find((branch) => branch.index === index);
