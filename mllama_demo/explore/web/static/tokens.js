// The token view inside the open answer: the tokens coloured by probability or entropy, and a bar chart of the entropy.
import { $, button, el, forPlace, handler, percent, release, request, visibleToken } from "./dom.js";
import { showCandidates } from "./candidates.js";
import { answerAt, answerName } from "./state.js";
import { applySliders, showSliders } from "./whatif.js";

// The open answer: { view, index, tokens, position, colourBy }; null when the panel is closed.
export let tokenView = null;
const SVG = "http://www.w3.org/2000/svg";

export function closeTokens() {
  tokenView = null;
  const panel = $("token-panel");
  if (!panel) return;
  release(panel);
  panel.hidden = true;
  panel.replaceChildren();
}

export async function openTokens(view, index, position = 0) {
  const panel = $("token-panel");
  const tokens = await forPlace(panel, request(`runs/${view.id}/cells/${index}/tokens`));
  tokenView = { view, index, tokens, position: 0, colourBy: "probability" };
  const cell = answerAt(view, index);
  const colourBy = el("select", { id: "colour-by", onchange: (event) => { tokenView.colourBy = event.target.value; colourTokens(); } },
    el("option", { value: "probability" }, "probability"), el("option", { value: "entropy" }, "entropy"));
  const list = el("div", { id: "tokens", role: "listbox", tabindex: "0", "aria-label": "Tokens of the answer; arrow keys move", onkeydown: selectByKey },
    ...tokens.map((token, i) => el("span", { class: "token", role: "option", id: `token-${i}`, "aria-selected": "false", onclick: handler(() => selectToken(i)) }, token.text === "" ? "∅" : token.text.replaceAll("\n", "⏎\n"))));
  panel.replaceChildren(
    el("div", { class: "heading" }, el("h4", {}, `Tokens of ${answerName(cell)}`), el("div", { class: "actions" }, el("label", {}, "Colour by ", colourBy), button("Close", closeTokens, { class: "small" }))),
    el("p", { class: "hint" }, "Choose a token by click, or with the arrow keys."),
    el("p", { class: "hint legend" }, el("span", { id: "legend-low" }), el("i"), el("span", { id: "legend-high" })),
    entropyChart(tokens), el("p", { class: "hint" }, "Bars: how undecided the model was at each token (entropy)."),
    list, el("div", { id: "whatif" }), el("div", { id: "candidates" }));
  panel.hidden = false;
  colourTokens();
  showSliders(cell);
  if (tokens.length) await selectToken(Math.min(position, tokens.length - 1));
  panel.scrollIntoView({ block: "start" });
  list.focus({ preventScroll: true });
}

// The height of the chart is the largest entropy of the answer, but at least 1 bit.
const maxEntropy = (tokens) => Math.max(1, ...tokens.map((token) => token.entropy ?? 0));

function svgElement(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function entropyChart(tokens) {
  const max = maxEntropy(tokens);
  const chart = svgElement("svg", { id: "entropy-chart", viewBox: `0 0 ${Math.max(1, tokens.length)} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `Entropy of each token, at most ${max.toFixed(1)} bits` });
  tokens.forEach((token, i) => {
    const height = (token.entropy ?? 0) / max;
    const bar = svgElement("rect", { x: i + 0.08, y: 1 - height, width: 0.84, height });
    const title = svgElement("title", {});
    title.textContent = `${visibleToken(token.text)}: ${(token.entropy ?? 0).toFixed(2)} bits`;
    bar.append(title);
    bar.addEventListener("click", handler(() => selectToken(i)));
    chart.append(bar);
  });
  return chart;
}

function colourTokens() {
  const byEntropy = tokenView.colourBy === "entropy";
  [$("legend-low").textContent, $("legend-high").textContent] = byEntropy ? ["decided", "undecided"] : ["likely", "unlikely for the model"];
  const max = maxEntropy(tokenView.tokens);
  tokenView.tokens.forEach((token, i) => {
    const element = $(`token-${i}`);
    element.style.setProperty("--shade", (byEntropy ? (token.entropy ?? 0) / max : 1 - (token.raw ?? 1)).toFixed(3));
    element.title = token.raw == null ? "" : `${percent(token.raw)}, ${token.entropy.toFixed(2)} bits`;
  });
}

const selectByKey = handler(async (event) => {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in steps) || !tokenView.tokens.length) return;
  event.preventDefault();
  await selectToken(Math.max(0, Math.min(tokenView.tokens.length - 1, tokenView.position + steps[event.key])));
});

async function selectToken(position) {
  $(`token-${tokenView.position}`)?.setAttribute("aria-selected", "false");
  tokenView.position = position;
  $(`token-${position}`).setAttribute("aria-selected", "true");
  $("tokens").setAttribute("aria-activedescendant", `token-${position}`);
  document.querySelectorAll("#entropy-chart rect").forEach((bar, i) => bar.classList.toggle("selected", i === position));
  const steps = await forPlace($("candidates"), request(`runs/${tokenView.view.id}/cells/${tokenView.index}/tokens/${position}`));
  showCandidates(steps);
  applySliders();
}
