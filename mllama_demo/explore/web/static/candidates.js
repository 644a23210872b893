// The candidates of the selected token: their probability after temperature, top-k and top-p. Branches start here.
import { $, button, el, handler, percent, stopButton, streamEvents, visibleToken } from "./dom.js";
import { showComparison } from "./compare.js";
import { openAnswer, showBranches } from "./matrix.js";
import { AXIS_NAMES, answerAt, answerName, state } from "./state.js";
import { openTokens, tokenView } from "./tokens.js";

const STAGES = ["raw", "after_temperature", "after_top_k", "final"];
const INITIAL_ROWS = 8;

function stageNames(cell) {
  if (cell.temperature === 0) return ["model", "greedy", "top-k", "top-p"];
  return ["model", `temperature ${cell.temperature}`, cell.top_k ? `top-k ${cell.top_k}` : "top-k off", cell.top_p < 1 ? `top-p ${cell.top_p}` : "top-p off"];
}

function explanation(steps, cell) {
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

// Why a candidate has no probability at a stage; empty where it has one.
function cutText({ cut_by: cutBy }, stage) {
  if (!cutBy || stage === "raw" || stage === "after_temperature" || (stage === "after_top_k" && cutBy === "top_p")) return "";
  return stage === "final" && cutBy !== "top_p" ? "cut" : cutBy === "greedy" ? "not the likeliest" : `cut by ${AXIS_NAMES[cutBy]}`;
}

function choiceText({ forced, draw }, { draw_interval: interval }) {
  if (forced) return "chosen by hand";
  return draw == null ? "taken" : `drawn: ${draw.toFixed(4)}${interval ? ` lies in ${interval[0].toFixed(3)}–${interval[1].toFixed(3)}` : ""}`;
}

export function showCandidates(steps) {
  const cell = answerAt(tokenView.view, tokenView.index);
  const bar = (value, cut) => el("td", { class: `probability${cut ? " removed" : ""}`, style: `--probability: ${Math.max(0, value).toFixed(4)}` }, cut ? `– ${cut}` : percent(value));
  const rows = steps.candidates.map((c, i) => el("tr", { class: c.chosen ? "chosen" : c.cut_by ? "cut" : "", hidden: i >= INITIAL_ROWS && !c.chosen },
    el("th", { scope: "row" }, visibleToken(c.text)), ...STAGES.map((stage) => bar(c[stage], cutText(c, stage))),
    el("td", {}, c.chosen ? `← ${choiceText(steps, c)}` : state.view.shared || !state.about.branches ? "" : button("Continue from here", handler((event) => startBranch(c, event.target.closest("tr"))), { class: "link", "aria-label": `Continue from ${c.text}` }))));
  const unrecorded = el("tr", { class: "unrecorded" }, el("th", { scope: "row" }, "all others"), ...STAGES.map((stage) => bar(steps.unrecorded[stage])), el("td", {}, "outside the recorded candidates"));
  const hidden = rows.filter((row) => row.hidden);
  const showAll = button(`Show ${hidden.length} more candidates`, (event) => { for (const row of hidden) row.hidden = false; event.target.remove(); }, { class: "link" });
  $("candidates").replaceChildren(el("h5", {}, `Token ${steps.position + 1}: “${visibleToken(steps.text)}”`), el("p", {}, explanation(steps, cell)),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Candidates" }, el("table", { class: "candidates" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Candidate"), ...stageNames(cell).map((name) => el("th", { scope: "col" }, name)), el("td"))),
      el("tbody", {}, ...rows, unrecorded))),
    hidden.length ? showAll : "", steps.hidden ? el("p", { class: "hint" }, `${steps.hidden} more recorded candidates are not shown.`) : "");
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
        const shared = event.text.slice(0, sharedLeft);
        sharedText.append(shared);
        newText.append(event.text.slice(shared.length));
        sharedLeft -= shared.length;
        status.textContent = event.error ?? `${event.phase} · ${event.tokens} tokens`;
      } else showSavedBranch(event);
    });
  } finally {
    if (actions.querySelector(".danger")) actions.replaceChildren();
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
