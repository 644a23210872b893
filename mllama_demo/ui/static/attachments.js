// Bringing a picture: drop and paste anywhere on the page, the camera and a web address beside the paper clip, and the pictures
// that were refused. The server checks the files (attachments.py). Uses web/static/pictures.js.
const { accept: PICTURES, dragsFiles, pastedText } = globalThis.mllamaPictures;
const fileInput = () => document.querySelector("#chat-input input[type=file]");

function attachFiles(files) {
  const input = fileInput();
  if (!input || !files.length) return;
  const list = new DataTransfer();
  for (const file of files) list.items.add(file);
  input.files = list.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  questionField()?.focus();
}

// --- drop ------------------------------------------------------------------------------------------------------------------

const dropOverlay = document.createElement("div");
dropOverlay.id = "drop-overlay";
dropOverlay.hidden = true;
dropOverlay.innerHTML = "<strong>Drop the picture to add it to your question</strong>";
document.querySelector(".gradio-container").append(dropOverlay);
// The editor of a question takes files itself.
const takesFiles = (event) => !hasOpenDialog() && !!fileInput() && !event.target.closest?.(".question-editor");
let dragDepth = 0; // every element under the pointer is entered and left
function showDropOverlay(shown) {
  if (!shown) dragDepth = 0;
  dropOverlay.hidden = !shown;
}
for (const type of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(type, (event) => {
    if (!dragsFiles(event)) return;
    event.preventDefault(); // the browser would leave the page for the file
    if (!takesFiles(event)) return showDropOverlay(false);
    event.stopPropagation();
    if (type === "dragenter") dragDepth += 1;
    if (type === "dragleave") dragDepth -= 1;
    if (type === "drop") attachFiles(event.dataTransfer.files);
    showDropOverlay(type !== "drop" && (type === "dragover" || dragDepth > 0));
  }, true);
addEventListener("blur", () => showDropOverlay(false));

// --- paste -----------------------------------------------------------------------------------------------------------------

document.addEventListener("paste", (event) => {
  const field = questionField(), clipboard = event.clipboardData, inField = event.target === field;
  if (!field || !clipboard || hasOpenDialog() || (!inField && isTypedInto(event.target))) return;
  const text = pastedText(clipboard);
  if (inField && !clipboard.files.length) return; // the browser pastes text as usual
  if (!text && !clipboard.files.length) return;
  event.preventDefault();
  event.stopPropagation();
  field.focus();
  if (text) document.execCommand("insertText", false, text);
  else attachFiles(clipboard.files);
}, true);

// --- the camera and a web address ------------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const button = event.target.closest(".source-button");
  if (button) openPageDialog(button.classList.contains("source-camera") ? "#camera-dialog" : "#address-dialog");
  // Gradio would let a file chooser show all files, since the page does not trust the types that browsers name.
  if (event.target.closest("#chat-input") && fileInput()) fileInput().accept = PICTURES;
}, true);

// --- the pictures that are attached ----------------------------------------------------------------------------------------

// Called after each change of the page: marks what was refused, and shows what the browser cannot draw itself.
function markAttachments() {
  const thumbnails = [...document.querySelectorAll("#chat-input .thumbnail-small")];
  const checked = [...document.querySelectorAll("#attachment-notes [data-index]")];
  thumbnails.forEach((thumbnail, index) => {
    const note = checked.find((one) => Number(one.dataset.index) === index);
    const refused = !!note?.textContent;
    if (thumbnail.classList.contains("refused") !== refused) thumbnail.classList.toggle("refused", refused);
    const preview = note?.dataset.preview, image = thumbnail.querySelector("img");
    if (!preview || thumbnail.dataset.preview === preview) return;
    thumbnail.dataset.preview = preview;
    if (!image) thumbnail.style.backgroundImage = `url("${preview}")`;
    else if (image.complete && !image.naturalWidth) image.src = preview;
    else image.addEventListener("error", () => (image.src = preview), { once: true });
  });
}

// --- a picture of the conversation, full size ------------------------------------------------------------------------------

function openPicture(digest, alt) {
  const dialog = document.createElement("dialog");
  dialog.className = "picture-dialog";
  dialog.setAttribute("aria-label", alt || "Picture");
  dialog.innerHTML = '<form method="dialog"><button aria-label="Close">✕</button></form><div><img></div>';
  const image = dialog.querySelector("img");
  image.addEventListener("error", () => image.replaceWith("This picture cannot be shown any more."), { once: true });
  Object.assign(image, { src: `picture/${digest}?page=${window.mllamaPageId ?? ""}`, alt: alt || "" });
  image.title = "Actual size";
  image.addEventListener("click", () => (image.title = dialog.classList.toggle("actual-size") ? "Fit the screen" : "Actual size"));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector(".gradio-container").append(dialog);
  dialog.showModal();
}

document.addEventListener("click", (event) => {
  const image = event.target.closest("#chat-history .image-container")?.querySelector("img");
  const digest = /shown(?:\/|%2F)([0-9a-f]{64})(?:\/|%2F)/.exec(image?.src)?.[1];
  const button = event.target.closest("button");
  if (!digest || (button && !/full ?screen/i.test(button.getAttribute("aria-label") ?? button.title) && !button.contains(image))) return;
  event.preventDefault();
  event.stopPropagation(); // Gradio's own view is no larger than the preview
  openPicture(digest, image.alt);
}, true);
