// The candidates of the selected token: their probability after temperature, top-k and top-p. Branches start here.
import { $, button, el, handler, percent, stopButton, streamEvents, visibleToken } from "./dom.js";
import { showComparison } from "./compare.js";
import { openAnswer, showBranches } from "./matrix.js";
import { answerAt, answerName, plural, splitAt, state } from "./state.js";
import { openTokens, tokenView } from "./tokens.js";

const STAGES = ["raw", "after_temperature", "after_top_k", "final"];
const INITIAL_ROWS = 8;

function stageNames(cell) {
  if (cell.temperature === 0) return ["model", "greedy", "top-k", "top-p"];
  return ["model", `temperature ${cell.temperature}`, cell.top_k ? `top-k ${cell.top_k}` : "top-k off", cell.top_p < 1 ? `top-p ${cell.top_p}` : "top-p off"];
}

function explanation(steps, cell) {
  if (steps.reported) return reportedExplanation(steps);
  const sentences = [];
  const left = `${steps.candidates_left.toLocaleString("en")} ${steps.candidates_left === 1 ? "candidate" : "candidates"}`;
  if (cell.temperature === 0 || cell.top_k === 1) sentences.push("Greedy: the likeliest token, always.");
  else {
    const effect = cell.temperature < 1 ? "made the likely likelier" : cell.temperature > 1 ? "gave the unlikely more of a chance" : "left the odds as they are";
    const filters = [cell.top_k ? `top-k ${cell.top_k}` : null, cell.top_p < 1 ? `top-p ${cell.top_p}` : null].filter(Boolean).join(" and ");
    sentences.push(`Temperature ${cell.temperature} ${effect}; ${filters ? `${filters} left ${left}.` : `nothing was cut: ${left}.`}`);
  }
  if (steps.forced) sentences.push("This token was chosen by hand.");
  if (!steps.exact) sentences.push("The record does not tell the mass outside of it after temperature, so it counts as nothing.");
  if (!steps.chosen_recorded) sentences.push(`“${steps.text}” was drawn from outside the record${steps.draw == null ? "" : ` with ${steps.draw.toFixed(4)}`}.`);
  return sentences.join(" ");
}

function reportedExplanation({ reported, unrecorded }) {
  return `The server sent ${plural(reported, "alternative")} for this token, which have ${percent(1 - unrecorded.raw)} together. They are taken as the model's own, before temperature and filters. `
    + "The server does not tell its random number; where the alternatives that it did not send matter, there are bounds.";
}

// Why a candidate has no probability at a stage (0 temperature, 1 top-k, 2 top-p); empty where it may have one.
function cutText(rank, stage, found, values) {
  if (isGreedy(values)) return !stage || !rank ? "" : stage === 1 ? "not the likeliest" : "cut";
  if (rank >= found.left_by_top_k) return stage === 1 ? "cut by top-k" : stage === 2 ? "cut" : "";
  return stage === 2 && rank >= found.left[1] ? "cut by top-p" : "";
}

const isGreedy = ({ temperature, top_k: topK }) => temperature === 0 || topK === 1;
const rangeText = (low, high) => (high - low < 5e-5 ? percent(high) : low < 5e-5 ? `up to ${percent(high)}` : `${percent(low)} – ${percent(high)}`);

// The table: { steps, values, rows, unrecorded, heads, lines }. Its parts stay; drawStages changes their bars and texts.
let table = null;

// Shows the candidates as they were when the token was drawn.
export function showCandidates(steps) {
  const values = answerAt(tokenView.view, tokenView.index);
  const cells = () => STAGES.map(() => el("td", { class: "probability" }));
  const rows = steps.candidates.map((candidate, i) => {
    const [stages, mark] = [cells(), el("td", {})];
    const row = el("tr", { hidden: i >= INITIAL_ROWS && !candidate.chosen }, el("th", { scope: "row" }, visibleToken(candidate.text)), ...stages, mark);
    return { candidate, row, stages, mark };
  });
  const unrecorded = cells();
  const heads = STAGES.map(() => el("th", { scope: "col" }));
  const lines = Object.fromEntries(["top_k", "top_p", "greedy"].map((filter) => [filter, el("tr", { class: "cut-line", "data-filter": filter }, el("td", { colspan: STAGES.length + 2 }))]));
  const body = el("tbody", {}, ...rows.map(({ row }) => row), el("tr", { class: "unrecorded" }, el("th", { scope: "row" }, "all others"), ...unrecorded, el("td", {}, steps.reported ? "not sent by the server" : "outside the recorded candidates")));
  table = { steps, rows, unrecorded, heads, lines, body };
  const hidden = rows.filter(({ row }) => row.hidden);
  const showAll = button(`Show ${hidden.length} more candidates`, (event) => { for (const { row } of hidden) row.hidden = false; event.target.remove(); drawCutLines(...table.drawn); }, { class: "link" });
  $("candidates").replaceChildren(el("h5", {}, `Token ${steps.position + 1}: “${visibleToken(steps.text)}”`), el("p", { id: "explanation" }, explanation(steps, values)),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Candidates" }, el("table", { class: "candidates" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Candidate"), ...heads, el("td"))), body)),
    hidden.length ? showAll : "", steps.hidden ? el("p", { class: "hint" }, `${steps.hidden} more recorded candidates are not shown.`) : "");
  drawStages(asRecorded(steps), values);
}

// The record of a token in the form of a what-if.
function asRecorded(steps) {
  if (steps.bounds) return { ...steps.bounds, choice: steps.chosen };
  const same = (value) => [value, value];
  return {
    stages: steps.candidates.map((c) => STAGES.slice(1).map((stage) => same(c[stage]))),
    rest: STAGES.slice(1).map((stage) => same(steps.unrecorded[stage])),
    left_by_top_k: steps.candidates.filter((c) => c.cut_by !== "top_k").length,
    left: same(steps.candidates.filter((c) => !c.cut_by).length),
    choice: steps.chosen,
    recorded: true,
  };
}

// Moves the bars and the cut lines to other values. found: of every recorded candidate, see candidates_what_if in whatif.py.
export function drawStages(found, values) {
  const { steps, rows, unrecorded, heads } = table;
  stageNames(values).forEach((name, i) => (heads[i].textContent = name));
  for (const { candidate, row, stages, mark } of rows) {
    const at = found.recorded ? steps.candidates.indexOf(candidate) : candidate.rank;
    drawBar(stages[0], [candidate.raw, candidate.raw], "");
    found.stages[at].forEach((bounds, stage) => drawBar(stages[stage + 1], bounds, cutText(at, stage, found, values)));
    row.className = candidate.chosen ? "chosen" : cutText(at, 2, found, values) ? "cut" : "";
    const again = !found.recorded && !candidate.chosen && candidate.token_id === found.choice;
    row.classList.toggle("drawn-instead", again);
    mark.replaceChildren(candidate.chosen ? `← ${choiceText(steps, candidate, found)}` : again ? `← ${isGreedy(values) ? "greedy would take this" : "the same number would draw this"}` : "", candidate.chosen ? "" : branchButton(candidate));
  }
  drawBar(unrecorded[0], [steps.unrecorded.raw, steps.unrecorded.raw], "");
  found.rest.forEach((bounds, stage) => drawBar(unrecorded[stage + 1], bounds, ""));
  table.drawn = [found, values];
  drawCutLines(found, values);
}

function drawBar(cell, [low, high], cut) {
  cell.style.setProperty("--low", cut ? 0 : Math.max(0, low).toFixed(4));
  cell.style.setProperty("--high", cut ? 0 : Math.max(0, high).toFixed(4));
  cell.classList.toggle("removed", Boolean(cut));
  cell.textContent = cut ? `– ${cut}` : rangeText(low, high);
}

// A line under the last candidate that a filter leaves.
function drawCutLines(found, values) {
  const { rows, lines, body } = table;
  for (const line of Object.values(lines)) line.remove();
  const draw = (filter, left, text) => {
    lines[filter].firstChild.textContent = text;
    const below = rows.find(({ candidate, row }, i) => !row.hidden && (found.recorded ? i : candidate.rank) >= left);
    body.insertBefore(lines[filter], below?.row ?? body.lastChild);
  };
  if (isGreedy(values)) return draw("greedy", 1, "greedy cuts here");
  const count = found.stages.length;
  const [low, high] = found.left;
  if (values.top_k && found.left_by_top_k < count) draw("top_k", found.left_by_top_k, `top-k ${values.top_k} cuts here`);
  if (values.top_p < 1 && high < Math.min(count, found.left_by_top_k)) draw("top_p", high, `top-p ${values.top_p} cuts here${low < high ? `, or up to ${plural(high - low, "candidate")} earlier` : ""}`);
}

function choiceText({ forced, draw }, { draw_interval: interval }, found) {
  if (forced) return "chosen by hand";
  if (table.steps.reported) return "the server's token";
  if (draw == null) return "taken";
  if (found.recorded) return `drawn: ${draw.toFixed(4)}${interval ? ` lies in ${interval[0].toFixed(3)}–${interval[1].toFixed(3)}` : ""}`;
  return `drawn: ${draw.toFixed(4)}`;
}

function branchButton(candidate) {
  if (state.view.shared || !state.about.branches) return "";
  return button("Continue from here", handler((event) => startBranch(candidate, event.target.closest("tr"))), { class: "link", "aria-label": `Continue from ${candidate.text}` });
}

// Generates a branch: one more answer, which continues from another candidate and is saved with the run. It appears under the
// candidate.
async function startBranch(candidate, row) {
  const { view, index, position } = tokenView;
  const parent = answerAt(view, index);
  const [text, status, actions] = [el("p", { class: "text", dir: "auto" }), el("p", { class: "status" }), el("div", { class: "actions" })];
  const place = el("div", { id: "branch" }, el("h5", {}, `Branch of ${answerName(parent)}: “${visibleToken(candidate.text)}” as token ${position + 1}`), text, status, actions);
  document.querySelector(".branch-row")?.remove();
  row.after(el("tr", { class: "branch-row" }, el("td", { colspan: 99 }, place)));
  const [sharedText, newText] = [el("span", { class: "shared" }), el("mark")];
  let sharedLeft = 0; // characters that the parent has too
  try {
    await streamEvents(`runs/${view.id}/cells/${index}/branch`, { position, token_id: candidate.token_id }, (event) => {
      if (event.event === "start") {
        sharedLeft = event.shared;
        actions.replaceChildren(stopButton(event.run));
        text.replaceChildren(sharedText, newText);
      } else if (event.event === "cell") {
        const [shared, own] = splitAt(event.text, sharedLeft);
        sharedText.append(shared);
        newText.append(own);
        sharedLeft -= [...shared].length;
        status.textContent = event.error ?? `${event.phase} · ${event.tokens} tokens`;
      } else showSavedBranch(event);
    });
  } finally {
    if (actions.querySelector(".danger")) {
      actions.replaceChildren();
      status.textContent = "broken off";
    }
  }

  function showSavedBranch(end) {
    actions.replaceChildren();
    if (state.id !== view.id) return;
    state.view = end.view;
    if (tokenView?.view.id === view.id) tokenView.view = end.view;
    showBranches();
    const branch = end.branch == null ? null : answerAt(end.view, end.branch);
    status.textContent = branch ? `${branch.error ?? `${branch.outcome_text} · ${branch.details}`} · saved under the grid as ${branch.name}` : end.note;
    if (!branch) return;
    actions.append(button(`Tokens of ${branch.name}`, handler(() => { openAnswer(branch.index); return openTokens(state.view, branch.index, position); }), { class: "small" }),
      button(`Compare ${branch.name} with ${answerName(parent)}`, handler(() => showComparison(index, branch.index)), { class: "small" }));
  }
}
