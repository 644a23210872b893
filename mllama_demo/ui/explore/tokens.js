// One answer token by token: coloured, with its entropy above; a chosen token's way through the filters; and what if.
import { $, ask, button, el, guarded, percent, post, stream, visible } from "./dom.js";
import { state } from "./explore.js";

let open = null; // { view, index, tokens, at, marks }
const panel = $("token-panel");
const SVG = "http://www.w3.org/2000/svg";

export function closeTokens() {
  open = null;
  panel.hidden = true;
  panel.replaceChildren();
}

export async function openTokens(view, index, at = 0) {
  const tokens = await ask(`runs/${view.id}/cells/${index}/tokens`);
  open = { view, index, tokens, at: 0, by: "probability" };
  const cell = view.cells[index];
  const by = el("select", { id: "colour-by", onchange: (event) => { open.by = event.target.value; colour(); } },
    el("option", { value: "probability" }, "probability"), el("option", { value: "entropy" }, "entropy"));
  const strip = el("div", { id: "tokens", role: "listbox", tabindex: "0", "aria-label": "Tokens of the answer; arrow keys move", onkeydown: onKey },
    ...tokens.map((token, i) => el("span", { class: "token", role: "option", id: `token-${i}`, "aria-selected": "false", onclick: guarded(() => choose(i)) }, token.text === "" ? "∅" : token.text.replaceAll("\n", "⏎\n"))));
  panel.replaceChildren(
    el("div", { class: "bar" }, el("h2", {}, `Tokens of cell ${index + 1}`), el("div", { class: "actions" }, el("label", {}, "Colour by ", by), button("Close", closeTokens, { class: "small" }))),
    el("p", { class: "hint" }, `Temperature ${cell.temperature}, top-p ${cell.top_p}, top-k ${cell.top_k}, seed ${cell.seed}. Choose a token by click or with the arrow keys.`),
    entropyStrip(tokens), strip, el("div", { id: "whatif" }), el("div", { id: "waterfall" }), el("div", { id: "branch" }));
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

const STAGES = [["raw", "raw"], ["after_temperature", "temperature"], ["after_top_k", "top-k"], ["final", "top-p, renormalised"]];

function waterfall(steps) {
  const bar = (value, cut) => el("td", { class: `bar-cell${cut ? " gone" : ""}`, style: `--p: ${Math.max(0, value).toFixed(4)}` }, cut ? `– ${cut}` : percent(value));
  const rows = steps.candidates.map((c) => {
    const stages = STAGES.map(([name]) => {
      const cut = c.cut_by && (name === "final" || (name === "after_top_k" && c.cut_by !== "top_p")) ? (name === "final" && c.cut_by !== "top_p" ? "cut" : `cut by ${c.cut_by.replace("_", "-")}`) : "";
      return bar(c[name], cut);
    });
    const drawn = c.chosen ? `← ${steps.draw == null ? "taken" : `drawn: ${steps.draw.toFixed(4)}`}${c.share && steps.draw != null ? ` lies in ${c.share[0].toFixed(3)}–${c.share[1].toFixed(3)}` : ""}` : "";
    const go = c.chosen ? drawn : button("Continue from here", guarded(() => branch(c)), { class: "small", "aria-label": `Continue from ${c.text}` });
    return el("tr", { class: c.chosen ? "drawn" : c.cut_by ? "cut" : "" }, el("th", { scope: "row" }, visible(c.text)), ...stages, el("td", { class: "go" }, go));
  });
  const outside = el("tr", { class: "outside" }, el("th", { scope: "row" }, "all others"), ...STAGES.map(([name]) => bar(steps.outside[name])), el("td", {}, "outside the recorded candidates"));
  const notes = [`${steps.kept.toLocaleString("en")} ${steps.kept === 1 ? "candidate was" : "candidates were"} left to choose from.`];
  if (steps.hidden) notes.push(`${steps.hidden} more recorded candidates are not shown.`);
  if (!steps.exact) notes.push("The record does not tell the mass outside of it after temperature, so it counts as nothing.");
  if (!steps.chosen_recorded) notes.push(`“${steps.text}” was drawn from outside the record${steps.draw == null ? "" : ` with ${steps.draw.toFixed(4)}`}.`);
  $("waterfall").replaceChildren(el("h3", {}, `Token ${steps.position + 1}: “${visible(steps.text)}”`), el("p", {}, notes.join(" ")),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Candidates" }, el("table", { class: "waterfall" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Candidate"), ...STAGES.map(([, name]) => el("th", { scope: "col" }, name)), el("td"))),
      el("tbody", {}, ...rows, outside))));
}

async function branch(candidate) {
  const [view, index, at] = [open.view, open.index, open.at];
  const text = el("p", { class: "text" });
  $("branch").replaceChildren(el("h3", {}, `Branch: “${visible(candidate.text)}” instead, at token ${at + 1}`), text);
  await stream(`runs/${view.id}/cells/${index}/branch`, { position: at, token_id: candidate.token_id }, (line) => {
    if (line.event !== "end") return void text.append(line.text);
    const before = line.tokens.slice(0, at).map((t) => t.text).join("");
    text.replaceChildren(before, el("mark", {}, line.cell.text.slice(before.length)));
    text.after(el("p", { class: "hint" }, line.cell.error ?? `${line.cell.ended} · ${line.cell.facts}`));
  });
}

// --- what if -----------------------------------------------------------------------------------------------------------------

const KNOBS = ["temperature", "top_p", "top_k"];

function sliders(cell) {
  const inputs = KNOBS.map((name) => {
    const { min, max, step } = state.about.bounds[name];
    const out = el("output", {}, String(cell[name]));
    const input = el("input", { type: "range", id: `whatif-${name}`, min, max, step, value: cell[name], oninput: () => { out.textContent = input.value; soon(); } });
    return el("label", {}, `${name.replace("_", "-")} `, input, out);
  });
  const reset = button("As it was", () => {
    for (const name of KNOBS) Object.assign($(`whatif-${name}`), { value: cell[name] }).nextElementSibling.textContent = cell[name];
    soon();
  }, { class: "small" });
  $("whatif").replaceChildren(el("h3", {}, "What if – nothing is generated"), el("div", { class: "sliders" }, ...inputs, reset), el("p", { id: "whatif-says", role: "status" }));
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

function inWords(found) {
  const chance = ([low, high]) => (high == null ? "none" : low != null && high - low < 1e-6 ? `10^${high.toFixed(1)}` : `${low == null ? "anything" : `10^${low.toFixed(1)}`} to 10^${high.toFixed(1)}`);
  const how = found.greedy ? "Greedy" : "The same random numbers";
  const say = [];
  say.push(found.impossible ? `${found.impossible} of ${found.tokens.length} tokens could not have been drawn.` : "Every token would still have been possible.");
  if (found.first_difference != null) say.push(`${how} would first differ at token ${found.first_difference + 1}: “${visible(found.instead ?? "")}”.`);
  else if (found.first_unknown != null) say.push(`From token ${found.first_unknown + 1} on, the record does not tell what ${found.greedy ? "greedy" : "the same numbers"} would choose.`);
  else say.push(`${how} would choose this very answer.`);
  say.push(`Chance of this whole answer: ${chance(found.log10_before)} → ${chance(found.log10)}.`);
  if (found.tail_matters) say.push(`At ${found.tail_matters} tokens the unrecorded tail matters, so bounds are given.`);
  return say.join(" ");
}
