// The form: the prompt with its history and image, the lists of values, and the estimate of what a run takes.
import "../../web/static/pictures.js";
import { $, ServerUnreachable, button, el, forPlace, post, request } from "./dom.js";
import { AXES, plural, state } from "./state.js";

const [ESTIMATE_DELAY_MS, RETRY_MS] = [150, 3000];
const pictures = globalThis.mllamaPictures;
let image = null; // the name of an example, a data URL, an image of the chat or of a run, or null
let history = []; // the conversation before the prompt

function numbers(id) {
  return $(id).value.split(/[,;\s]+/).filter(Boolean).map((part) => {
    if (Number.isNaN(Number(part))) throw new Error(`${$(id).labels[0].firstChild.textContent.trim()}: “${part}” is no number.`);
    return Number(part);
  });
}

// Disables a list that the backend does not read, and says why. Without seeds, each value of the list is one more answer.
export function greyOutIgnored({ ignored }) {
  for (const [axis, reason] of Object.entries(ignored)) {
    $(`${axis}-hint`).textContent = axis === "seed" ? `${reason} Each value is one more answer.` : reason;
    $(axis).disabled = axis !== "seed";
  }
}

// The values of a grid, without its image and without what the backend does not read.
function gridValues() {
  const values = { prompt: $("prompt").value, max_tokens: Number($("max_tokens").value), history };
  for (const axis of AXES) if (!$(axis).disabled) values[axis] = numbers(axis);
  return values;
}

// The name of the selected image, for messages, reports and exports. The server does not need it for an image that it has.
const imageName = () => $("thumbnails").querySelector(".upload[aria-pressed=true]")?.getAttribute("aria-label");

export const formValues = () => ({ ...gridValues(), image, image_name: imageName() });

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

let timer;
function estimateIn(delay) {
  clearTimeout(timer);
  timer = setTimeout(() => estimate().catch(() => {}), delay); // it rejects only when a newer estimate is under way
}
export const estimateSoon = () => estimateIn(ESTIMATE_DELAY_MS);

async function estimate() {
  const outcome = gridEstimate().then((text) => ({ text }), (error) => ({ text: error.message, error }));
  const { text, error } = await forPlace($("estimate"), outcome);
  $("estimate").textContent = text;
  $("estimate").classList.toggle("invalid", Boolean(error));
  $("run").disabled = Boolean(error) || state.running;
  if (error instanceof ServerUnreachable) estimateIn(RETRY_MS);
}

const gridEstimate = async () => estimateText(await post("estimate", gridValues()));
addEventListener("online", estimateSoon);

// --- history ---------------------------------------------------------------------------------------------------------------

function showHistory() {
  const turns = history.map(({ role, text, image: seen }) => el("p", { dir: "auto" }, el("strong", {}, role === "user" ? "Question" : "Answer"), seen ? " (with the image) " : " ", text));
  $("history").replaceChildren(el("details", {}, el("summary", {}, `After a conversation of ${plural(history.length, "message")}`), ...turns),
    button("Ask without it", () => { history = []; showHistory(); estimateSoon(); }, { class: "link" }));
  $("history").hidden = !history.length;
}

// --- images ----------------------------------------------------------------------------------------------------------------

function selectImage(selected) {
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
  $("thumbnails").replaceChildren(none, ...names.map((name) => makeThumbnail(name, name.replace(/\.\w+$/, ""), `explore/examples/${name}`)));
  selectImage(names.includes("dog.png") ? "dog.png" : null);
}

function takePicture(file) {
  if (!file) return;
  const reader = new FileReader();
  // The server decides by the content: the type that the browser names follows from the name of the file.
  reader.onload = () => addThumbnail(reader.result.replace(/^[^,]*,/, "data:application/octet-stream;base64,"), file.name, reader.result);
  reader.readAsDataURL(file);
}

const form = $("grid-form");
form.addEventListener("input", estimateSoon);
$("file").accept = pictures.accept;
$("file").addEventListener("change", () => {
  takePicture($("file").files[0]);
  $("file").value = "";
});
for (const type of ["dragover", "dragleave", "drop"])
  form.addEventListener(type, (event) => {
    if (!pictures.dragsFiles(event) || $("images").hidden) return;
    const leaves = type === "dragleave" && !form.contains(event.relatedTarget);
    form.classList.toggle("dropping", type === "dragover" || (type === "dragleave" && !leaves));
    if (type === "drop") takePicture(event.dataTransfer.files[0]);
  });
// Also without the focus in the form, but not into another field or dialog.
document.addEventListener("paste", (event) => {
  const { target, clipboardData } = event;
  if ($("images").hidden || !clipboardData?.files.length || pictures.pastedText(clipboardData)) return; // the browser pastes text as usual
  if (!form.contains(target) && target.closest("input, textarea, dialog")) return;
  event.preventDefault();
  takePicture(clipboardData.files[0]);
});

// --- from the chat ---------------------------------------------------------------------------------------------------------

// Fills the form with the question, the image, the conversation so far and the values of an answer of the chat.
export async function fillFromChat(conversation, answer) {
  const path = `chat/${encodeURIComponent(conversation)}/${encodeURIComponent(answer)}`;
  const { prompt, history, values, image: seen } = await forPlace($("grid-panel"), request(path));
  fillForm({ prompt, history, ...values }, seen && { ...seen, url: `explore/${path}/image` });
  $("to-chat").href = `./?${new URLSearchParams({ c: conversation })}`;
  $("from-chat").textContent = "From the chat. Run repeats its answer with the same values; give several values to compare others.";
  $("from-chat").hidden = false;
}
