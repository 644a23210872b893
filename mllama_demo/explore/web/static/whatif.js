// The sliders of the token view: which tokens of the answer other sampling values would have left. Nothing is generated.
import { $, button, el, forPlace, handler, percent, post, visibleToken } from "./dom.js";
import { drawStages } from "./candidates.js";
import { AXES, AXIS_NAMES, answerAt, plural, state } from "./state.js";
import { tokenView } from "./tokens.js";

const SLIDERS = AXES.filter((axis) => axis !== "seed");
const DELAY_MS = 40;

export function showSliders(cell) {
  const labels = SLIDERS.map((name) => {
    const { min, max, step } = state.about.bounds[name];
    const output = el("output", {}, String(cell[name]));
    const input = el("input", { type: "range", id: `whatif-${name}`, min, max, step, value: cell[name], oninput: () => { output.textContent = input.value; updateSoon(); } });
    return el("label", {}, AXIS_NAMES[name], input, output);
  });
  const reset = button("As it was", () => {
    for (const name of SLIDERS) Object.assign($(`whatif-${name}`), { value: cell[name] }).nextElementSibling.textContent = cell[name];
    updateSoon();
  }, { class: "small" });
  $("whatif").replaceChildren(el("h5", {}, "What if? Move a slider; nothing is generated"), el("div", { class: "sliders" }, ...labels, reset), el("p", { id: "whatif-result", role: "status" }, "The bars and the cut lines below follow the sliders."));
}

const sliderValues = () => Object.fromEntries(SLIDERS.map((name) => [name, Number($(`whatif-${name}`).value)]));

// Another token was selected: its candidates follow the sliders too.
export function applySliders() {
  const cell = answerAt(tokenView.view, tokenView.index);
  if (Object.entries(sliderValues()).some(([name, value]) => value !== Number(cell[name]))) updateSoon();
}

let timer;
function updateSoon() {
  clearTimeout(timer);
  timer = setTimeout(handler(update), DELAY_MS);
}

async function update() {
  if (!tokenView) return;
  const values = sliderValues();
  const { view, index, position } = tokenView;
  const result = $("whatif-result");
  const found = await forPlace(result, post(`runs/${view.id}/cells/${index}/whatif`, { ...values, position }));
  if (position === tokenView.position) drawStages(found.candidates, values);
  found.tokens.forEach((token, i) => {
    const element = $(`token-${i}`);
    element.classList.toggle("impossible", token.possible === false);
    element.classList.toggle("unknown", token.possible === null);
    element.classList.toggle("differs", i === found.first_difference);
    element.title = token.possible === false ? "could not have been drawn" : token.possible === null ? "the tail decides" : `would have had ${percent(token.low)}${token.exact ? "" : ` to ${percent(token.high)}`}`;
  });
  result.textContent = resultText(found);
}

// A probability from its decimal logarithm.
function oneIn(log) {
  if (log > -1) return percent(10 ** log);
  if (log > -6) return `1 in ${Math.round(10 ** -log).toLocaleString("en")}`;
  return `1 in 10${[...String(Math.round(-log))].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
}

function chance([low, high]) {
  if (high == null) return "none";
  if (low == null) return `at most ${oneIn(high)}`;
  const [least, most] = [oneIn(low), oneIn(high)];
  return least === most ? most : `${least} to ${most}`;
}

function resultText(found) {
  const how = found.greedy ? "Greedy" : "The same random numbers";
  const sentences = [];
  sentences.push(found.impossible ? `${found.impossible} of ${found.tokens.length} tokens could not have been drawn (struck through).` : "Every token would still have been possible.");
  if (found.first_difference != null) sentences.push(`${how} would first differ at token ${found.first_difference + 1}: “${visibleToken(found.instead ?? "")}”.`);
  else if (found.reported) sentences.push("The server does not tell its random numbers, so what they would choose is unknown.");
  else if (found.first_unknown != null) sentences.push(`From token ${found.first_unknown + 1} on, the record does not tell what ${found.greedy ? "greedy" : "the same numbers"} would choose.`);
  else sentences.push(`${how} would choose this very answer.`);
  sentences.push(`Chance of this whole answer: ${chance(found.log10_before)} → ${chance(found.log10)}.`);
  if (found.tail_matters) sentences.push(`At ${plural(found.tail_matters, "token")} the ${found.reported ? "alternatives that were not sent matter" : "unrecorded tail matters"}, so bounds are given.`);
  return sentences.join(" ");
}
