// One answer token by token: coloured, with its entropy above; a chosen token's way through the filters; and what if.
import { $, ask, button, el, guarded, percent, post, stopButton, stream, visible } from "./dom.js";
import { showBranches } from "./cards.js";
import { compareThese } from "./figures.js";
import { AXES, NAMES, answer, called, state, values } from "./state.js";

let open = null; // { view, index, tokens, at, marks }
const panel = $("token-panel");
const SVG = "http://www.w3.org/2000/svg";

export const tokensOf = (index) => open?.index === index;

export function closeTokens() {
  open = null;
  panel.hidden = true;
  panel.replaceChildren();
}

export async function openTokens(view, index, at = 0) {
  const tokens = await ask(`runs/${view.id}/cells/${index}/tokens`);
  open = { view, index, tokens, at: 0, by: "probability" };
  const cell = answer(view, index);
  const by = el("select", { id: "colour-by", onchange: (event) => { open.by = event.target.value; colour(); } },
    el("option", { value: "probability" }, "probability"), el("option", { value: "entropy" }, "entropy"));
  const strip = el("div", { id: "tokens", role: "listbox", tabindex: "0", "aria-label": "Tokens of the answer; arrow keys move", onkeydown: onKey },
    ...tokens.map((token, i) => el("span", { class: "token", role: "option", id: `token-${i}`, "aria-selected": "false", onclick: guarded(() => choose(i)) }, token.text === "" ? "∅" : token.text.replaceAll("\n", "⏎\n"))));
  panel.replaceChildren(
    el("div", { class: "bar" }, el("h2", {}, `Tokens of ${called(cell)}`), el("div", { class: "actions" }, el("label", {}, "Colour by ", by), button("Close", closeTokens, { class: "small" }))),
    el("p", { class: "hint" }, `${values(cell)}. Choose a token by click, or with the arrow keys.`),
    el("p", { class: "hint legend" }, el("span", { id: "least" }), el("i"), el("span", { id: "most" })),
    entropyStrip(tokens), el("p", { class: "hint" }, "Bars: how undecided the model was at each token (entropy)."),
    strip, el("div", { id: "whatif" }), el("div", { id: "waterfall" }), el("div", { id: "branch" }));
  panel.hidden = false;
  colour();
  sliders(cell);
  if (tokens.length) await choose(Math.min(at, tokens.length - 1));
  panel.scrollIntoView({ block: "start" });
  strip.focus({ preventScroll: true });
}

// Bits of entropy as bars; as high as the most undecided token of the answer.
function entropyStrip(tokens) {
  const most = Math.max(1, ...tokens.map((token) => token.entropy ?? 0));
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("id", "entropy");
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, tokens.length)} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Entropy of each token, at most ${most.toFixed(1)} bits`);
  tokens.forEach((token, i) => {
    const bar = document.createElementNS(SVG, "rect");
    const height = (token.entropy ?? 0) / most;
    for (const [name, value] of Object.entries({ x: i + 0.08, y: 1 - height, width: 0.84, height, "data-at": i })) bar.setAttribute(name, value);
    const title = document.createElementNS(SVG, "title");
    title.textContent = `${visible(token.text)}: ${(token.entropy ?? 0).toFixed(2)} bits`;
    bar.append(title);
    bar.addEventListener("click", guarded(() => choose(i)));
    svg.append(bar);
  });
  return svg;
}

function colour() {
  [$("least").textContent, $("most").textContent] = open.by === "entropy" ? ["decided", "undecided"] : ["likely", "unlikely for the model"];
  const most = Math.max(1, ...open.tokens.map((token) => token.entropy ?? 0));
  open.tokens.forEach((token, i) => {
    const doubt = open.by === "entropy" ? (token.entropy ?? 0) / most : 1 - (token.raw ?? 1);
    const span = $(`token-${i}`);
    span.style.setProperty("--doubt", doubt.toFixed(3));
    span.title = token.raw == null ? "" : `${percent(token.raw)}, ${token.entropy.toFixed(2)} bits`;
  });
}

const onKey = guarded(async (event) => {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in steps) || !open.tokens.length) return;
  event.preventDefault();
  await choose(Math.max(0, Math.min(open.tokens.length - 1, open.at + steps[event.key])));
});

async function choose(at) {
  $(`token-${open.at}`)?.setAttribute("aria-selected", "false");
  open.at = at;
  $(`token-${at}`).setAttribute("aria-selected", "true");
  $("tokens").setAttribute("aria-activedescendant", `token-${at}`);
  panel.querySelectorAll("#entropy rect").forEach((bar, i) => bar.classList.toggle("chosen", i === at));
  const mine = open;
  const steps = await ask(`runs/${open.view.id}/cells/${open.index}/tokens/${at}`);
  if (open === mine && open.at === at) waterfall(steps);
}

// --- the way of a token ------------------------------------------------------------------------------------------------------

const STAGES = ["raw", "after_temperature", "after_top_k", "final"];
const SHOWN = 8;

// Heads of the columns: the values that acted there.
function heads(cell) {
  if (cell.temperature === 0) return ["model", "greedy", "top-k", "top-p"];
  return ["model", `temperature ${cell.temperature}`, cell.top_k ? `top-k ${cell.top_k}` : "top-k off", cell.top_p < 1 ? `top-p ${cell.top_p}` : "top-p off"];
}

function whatHappened(steps, cell) {
  const say = [];
  const left = `${steps.candidates_left.toLocaleString("en")} ${steps.candidates_left === 1 ? "candidate" : "candidates"}`;
  if (cell.temperature === 0 || cell.top_k === 1) say.push("Greedy: the likeliest token, always.");
  else {
    const how = cell.temperature < 1 ? "made the likely likelier" : cell.temperature > 1 ? "gave the unlikely more of a chance" : "left the odds as they are";
    const cut = [cell.top_k ? `top-k ${cell.top_k}` : null, cell.top_p < 1 ? `top-p ${cell.top_p}` : null].filter(Boolean).join(" and ");
    say.push(`Temperature ${cell.temperature} ${how}; ${cut ? `${cut} left ${left}.` : `nothing was cut: ${left}.`}`);
  }
  if (steps.forced) say.push("This token was chosen by hand.");
  if (!steps.exact) say.push("The record does not tell the mass outside of it after temperature, so it counts as nothing.");
  if (!steps.chosen_recorded) say.push(`“${steps.text}” was drawn from outside the record${steps.draw == null ? "" : ` with ${steps.draw.toFixed(4)}`}.`);
  return say.join(" ");
}

function waterfall(steps) {
  const cell = answer(open.view, open.index);
  const bar = (value, cut) => el("td", { class: `bar-cell${cut ? " gone" : ""}`, style: `--p: ${Math.max(0, value).toFixed(4)}` }, cut ? `– ${cut}` : percent(value));
  const cutAt = (c, name) => {
    if (!c.cut_by || name === "raw" || name === "after_temperature" || (name === "after_top_k" && c.cut_by === "top_p")) return "";
    return name === "final" && c.cut_by !== "top_p" ? "cut" : c.cut_by === "greedy" ? "not the likeliest" : `cut by ${NAMES[c.cut_by]}`;
  };
  const row = (c, at) => {
    const how = steps.forced ? "chosen by hand" : steps.draw == null ? "taken" : `drawn: ${steps.draw.toFixed(4)}${c.draw_interval ? ` lies in ${c.draw_interval[0].toFixed(3)}–${c.draw_interval[1].toFixed(3)}` : ""}`;
    const go = c.chosen ? `← ${how}` : button("Continue from here", guarded(() => branch(c)), { class: "link", "aria-label": `Continue from ${c.text}` });
    return el("tr", { class: c.chosen ? "drawn" : c.cut_by ? "cut" : "", hidden: at >= SHOWN && !c.chosen }, el("th", { scope: "row" }, visible(c.text)), ...STAGES.map((name) => bar(c[name], cutAt(c, name))), el("td", { class: "go" }, go));
  };
  const rows = steps.candidates.map(row);
  const outside = el("tr", { class: "outside" }, el("th", { scope: "row" }, "all others"), ...STAGES.map((name) => bar(steps.unrecorded[name])), el("td", {}, "outside the recorded candidates"));
  const more = rows.filter((one) => one.hidden);
  const showAll = button(`Show ${more.length} more candidates`, (event) => { for (const one of more) one.hidden = false; event.target.remove(); }, { class: "link" });
  $("waterfall").replaceChildren(el("h3", {}, `Token ${steps.position + 1}: “${visible(steps.text)}”`), el("p", {}, whatHappened(steps, cell)),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Candidates" }, el("table", { class: "waterfall" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Candidate"), ...heads(cell).map((name) => el("th", { scope: "col" }, name)), el("td"))),
      el("tbody", {}, ...rows, outside))),
    more.length ? showAll : "", steps.hidden ? el("p", { class: "hint" }, `${steps.hidden} more recorded candidates are not shown.`) : "");
}

// Goes on from another candidate: one more answer, which is kept with the run.
async function branch(candidate) {
  const [{ view, index, at }, text, status, acts] = [open, el("p", { class: "text" }), el("p", { class: "status" }), el("div", { class: "actions" })];
  const parent = answer(view, index);
  $("branch").replaceChildren(el("h3", {}, `Branch of ${called(parent)}: “${visible(candidate.text)}” as token ${at + 1}`), text, status, acts);
  const fresh = el("mark");
  let shared = 0;
  try {
    await stream(`runs/${view.id}/cells/${index}/branch`, { position: at, token_id: candidate.token_id }, (line) => {
      if (line.event === "start") {
        shared = line.shared;
        acts.replaceChildren(stopButton(line.run));
        text.replaceChildren(el("span", { class: "shared" }), fresh);
      } else if (line.event === "cell") {
        const old = line.text.slice(0, shared);
        text.firstChild.append(old);
        fresh.append(line.text.slice(old.length));
        shared -= old.length;
        status.textContent = line.error ?? `${line.phase} · ${line.tokens} tokens`;
      } else ended(line);
    });
  } finally {
    if (acts.querySelector(".danger")) acts.replaceChildren();
  }

  function ended(line) {
    acts.replaceChildren();
    if (state.id !== view.id) return;
    state.view = line.view;
    if (open?.view.id === view.id) open.view = line.view;
    showBranches(line.view);
    const made = line.branch == null ? null : answer(line.view, line.branch);
    status.textContent = made ? `${made.error ?? `${made.outcome_text} · ${made.details}`} · kept under the grid as ${made.name}` : line.note;
    if (!made) return;
    acts.append(button(`Tokens of ${made.name}`, guarded(() => openTokens(state.view, made.index, at)), { class: "small" }),
      button(`Compare ${made.name} with ${called(parent)}`, guarded(() => compareThese(index, made.index)), { class: "small" }));
  }
}

// --- what if -----------------------------------------------------------------------------------------------------------------

const KNOBS = AXES.filter((axis) => axis !== "seed");

function sliders(cell) {
  const inputs = KNOBS.map((name) => {
    const { min, max, step } = state.about.bounds[name];
    const out = el("output", {}, String(cell[name]));
    const input = el("input", { type: "range", id: `whatif-${name}`, min, max, step, value: cell[name], oninput: () => { out.textContent = input.value; soon(); } });
    return el("label", {}, NAMES[name], input, out);
  });
  const reset = button("As it was", () => {
    for (const name of KNOBS) Object.assign($(`whatif-${name}`), { value: cell[name] }).nextElementSibling.textContent = cell[name];
    soon();
  }, { class: "small" });
  $("whatif").replaceChildren(el("h3", {}, "What if? Move a slider; nothing is generated"), el("div", { class: "sliders" }, ...inputs, reset), el("p", { id: "whatif-says", role: "status" }));
}

let pause;
let asked = 0;
function soon() {
  clearTimeout(pause);
  pause = setTimeout(guarded(whatIf), 40);
}

async function whatIf() {
  const mine = ++asked;
  const values = Object.fromEntries(KNOBS.map((name) => [name, Number($(`whatif-${name}`).value)]));
  const found = await post(`runs/${open.view.id}/cells/${open.index}/whatif`, values);
  if (mine !== asked || !open) return;
  found.tokens.forEach((token, i) => {
    const span = $(`token-${i}`);
    span.classList.toggle("impossible", token.possible === false);
    span.classList.toggle("unknown", token.possible === null);
    span.classList.toggle("differs", i === found.first_difference);
    span.title = token.possible === false ? "could not have been drawn" : token.possible === null ? "the tail decides" : `would have had ${percent(token.low)}${token.exact ? "" : ` to ${percent(token.high)}`}`;
  });
  $("whatif-says").textContent = inWords(found);
}

// A probability by its decimal logarithm, for people.
function oneIn(log) {
  if (log > -1) return percent(10 ** log);
  if (log > -6) return `1 in ${Math.round(10 ** -log).toLocaleString("en")}`;
  return `1 in 10${[...String(Math.round(-log))].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
}

function chance([low, high]) {
  if (high == null) return "none";
  const [least, most] = [low == null ? "none" : oneIn(low), oneIn(high)];
  return least === most ? most : `${least} to ${most}`;
}

function inWords(found) {
  const how = found.greedy ? "Greedy" : "The same random numbers";
  const say = [];
  say.push(found.impossible ? `${found.impossible} of ${found.tokens.length} tokens could not have been drawn (struck through).` : "Every token would still have been possible.");
  if (found.first_difference != null) say.push(`${how} would first differ at token ${found.first_difference + 1}: “${visible(found.instead ?? "")}”.`);
  else if (found.first_unknown != null) say.push(`From token ${found.first_unknown + 1} on, the record does not tell what ${found.greedy ? "greedy" : "the same numbers"} would choose.`);
  else say.push(`${how} would choose this very answer.`);
  say.push(`Chance of this whole answer: ${chance(found.log10_before)} → ${chance(found.log10)}.`);
  if (found.tail_matters) say.push(`At ${found.tail_matters} tokens the unrecorded tail matters, so bounds are given.`);
  return say.join(" ");
}
