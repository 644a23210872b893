// The form: the prompt with its history and image, the lists of values, and the estimate of what a run takes.
import { $, button, el, handler, post, request } from "./dom.js";
import { AXES, plural, state } from "./state.js";

const ESTIMATE_DELAY_MS = 150;
let image = null; // the name of an example, a data URL, an image of the chat or of a run, or null
let history = []; // the conversation before the prompt

function numbers(id) {
  return $(id).value.split(/[,;\s]+/).filter(Boolean).map((part) => {
    if (Number.isNaN(Number(part))) throw new Error(`${$(id).labels[0].firstChild.textContent.trim()}: “${part}” is no number.`);
    return Number(part);
  });
}

// The values of a grid, without its image.
function gridValues() {
  const values = { prompt: $("prompt").value, max_tokens: Number($("max_tokens").value), history };
  for (const axis of AXES) values[axis] = numbers(axis);
  return values;
}

export const formValues = () => ({ ...gridValues(), image });

// grid: prompt, max_tokens, the axes, and history. picture: { name, source, url }, the name of an example, or null.
export function fillForm(grid, picture) {
  for (const axis of AXES) $(axis).value = [grid[axis]].flat().join(", ");
  [$("prompt").value, $("max_tokens").value] = [grid.prompt, grid.max_tokens];
  history = grid.history ?? [];
  showHistory();
  if (!state.about.takes_images) selectImage(null);
  else if (picture?.source) addThumbnail(picture.source, picture.name, picture.url);
  else selectImage(picture);
  estimateSoon();
}

// --- estimate --------------------------------------------------------------------------------------------------------------

function estimateText({ estimate: { cells, tokens, prefills, seconds }, notes }) {
  const time = seconds == null ? "" : `, about ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const reads = prefills === 1 ? "once" : `${prefills} times`;
  return [`${plural(cells, "cell")}, ${tokens.toLocaleString("en")} tokens at most${time}; the prompt is read ${reads}.`, ...notes].join(" ");
}

let lastEstimate = 0;
let timer;
export function estimateSoon() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const number = ++lastEstimate;
    let text, invalid = false;
    try {
      text = estimateText(await post("estimate", gridValues()));
    } catch (error) {
      [text, invalid] = [error.message, true];
    }
    if (number !== lastEstimate) return;
    $("estimate").textContent = text;
    $("estimate").classList.toggle("invalid", invalid);
    $("run").disabled = invalid || state.running;
  }, ESTIMATE_DELAY_MS);
}

// --- history ---------------------------------------------------------------------------------------------------------------

function showHistory() {
  const turns = history.map(({ role, text, image: seen }) => el("p", { dir: "auto" }, el("strong", {}, role === "user" ? "Question" : "Answer"), seen ? " (with the image) " : " ", text));
  $("history").replaceChildren(el("details", {}, el("summary", {}, `After a conversation of ${plural(history.length, "message")}`), ...turns),
    button("Ask without it", () => { history = []; showHistory(); estimateSoon(); }, { class: "link" }));
  $("history").hidden = !history.length;
}

// --- images ----------------------------------------------------------------------------------------------------------------

export function selectImage(selected) {
  image = selected;
  for (const thumbnail of $("thumbnails").children) thumbnail.setAttribute("aria-pressed", String(thumbnail.dataset.name === String(selected)));
}

const makeThumbnail = (name, label, src) =>
  el("button", { type: "button", "data-name": name, "aria-label": label, onclick: () => selectImage(name) },
    el("img", { src, alt: "", onerror: (event) => event.target.replaceWith(el("span", { class: "no-image" }, label)) })); // such as HEIC

// Adds an image that is no example in the place of the one that was added before, and selects it.
function addThumbnail(source, name, src) {
  $("thumbnails").querySelector(".upload")?.remove();
  const upload = makeThumbnail(source, name, src);
  upload.classList.add("upload");
  $("thumbnails").append(upload);
  selectImage(source);
}

export function showThumbnails({ takes_images: takesImages, example_images: names }) {
  $("images").hidden = !takesImages;
  const none = button("None", () => selectImage(null), { "data-name": "null" });
  $("thumbnails").replaceChildren(none, ...names.map((name) => makeThumbnail(name, name.replace(/\.\w+$/, ""), `/explore/examples/${name}`)));
  selectImage(names.includes("dog.png") ? "dog.png" : null);
}

$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {
    addThumbnail(reader.result, file.name, reader.result);
    $("file").value = "";
  };
  reader.readAsDataURL(file);
});
$("grid-form").addEventListener("input", estimateSoon);

// --- from the chat ---------------------------------------------------------------------------------------------------------

// Fills the form with the question, the image, the conversation so far and the values of an answer of the chat.
export async function fillFromChat(conversation, answer) {
  const path = `chat/${encodeURIComponent(conversation)}/${encodeURIComponent(answer)}`;
  const { prompt, history, values, image: seen } = await request(path);
  fillForm({ prompt, history, ...values }, seen && { ...seen, url: `/explore/${path}/image` });
  $("to-chat").href = `/?${new URLSearchParams({ c: conversation })}`;
  $("from-chat").textContent = "From the chat. Run repeats its answer with the same values; give several values to compare others.";
  $("from-chat").hidden = false;
}
