// The editor of a question, in the question's place: its text and its picture. Runs after chat.js, in the same scope.
// Saving triggers the event "edit" with { number, text, image: "keep" | "remove" | "replace", file }, see question_edit.py.
let questionEditor = null;
const SAVE_TIMEOUT_MS = 30000; // the conversation shows a saved question much sooner, also when the question waits in the queue
const LOCKED = "An answer is being written. Please save when it is complete, or stop it.";

const EDITOR_HTML = `
  <div class="editor-picture"><img alt=""><span class="editor-no-picture"></span>
    <span class="editor-picture-buttons"><button type="button" class="editor-swap"></button>
    <button type="button" class="editor-remove">Remove picture</button>
    <button type="button" class="editor-keep">Keep the picture</button></span></div>
  <textarea rows="2" dir="auto" aria-label="Your question" maxlength="100000"></textarea>
  <p class="editor-note" role="alert"></p>
  <div class="editor-buttons"><span class="editor-keys">Enter sends, Shift + Enter breaks the line</span>
    <button type="button" class="editor-cancel">Cancel</button><button type="submit" class="editor-save">Save and ask</button></div>
  <input type="file" accept="image/*" hidden>`;

class QuestionEditor {
  constructor(button) {
    this.row = button.closest(".message-row");
    this.number = Number(button.dataset.number);
    this.original = this.row.querySelector(".typed-text")?.textContent ?? "";
    this.picture = this.row.querySelector(".image-frame img");
    this.image = "keep";
    this.form = document.createElement("form");
    this.form.className = "question-editor";
    this.form.setAttribute("aria-label", "Edit the question");
    this.form.innerHTML = EDITOR_HTML;
    this.field = this.find("textarea");
    this.field.value = this.original;
    this.row.after(this.form); // the style sheet hides a row before an editor
    // The server reads formats that a browser may not, such as HEIC. Their file's name stands for them.
    this.find(".editor-picture img").addEventListener("error", () => {
      this.find(".editor-picture img").hidden = true;
      this.showNoPicture(this.file ? `${this.file.name} (this browser cannot show it)` : "This browser cannot show the picture");
    });
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.save()));
    this.form.addEventListener("keydown", (event) => this.onKey(event));
    this.form.addEventListener("paste", (event) => this.onFiles(event, event.clipboardData, true));
    this.form.addEventListener("dragover", (event) => event.preventDefault());
    this.form.addEventListener("drop", (event) => this.onFiles(event, event.dataTransfer, false));
    this.field.addEventListener("input", () => this.fitHeight());
    this.find(".editor-cancel").addEventListener("click", () => this.close());
    this.find(".editor-remove").addEventListener("click", () => this.setImage("remove"));
    this.find(".editor-keep").addEventListener("click", () => this.setImage("keep"));
    this.find(".editor-swap").addEventListener("click", () => this.find("input").click());
    this.find("input").addEventListener("change", () => this.setImage("replace", this.find("input").files[0]));
    this.setImage("keep");
    this.fitHeight();
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
    this.form.scrollIntoView({ block: "nearest" });
  }

  find(selector) {
    return this.form.querySelector(selector);
  }

  fitHeight() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }

  onKey(event) {
    if (event.isComposing) return;
    if (event.key === "Escape") this.close();
    else if (event.key === "Enter" && !event.shiftKey && event.target === this.field) this.save();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // A picture that is pasted or dropped becomes the question's. Pasted text wins over its own picture, see pastedText.
  onFiles(event, data, isPaste) {
    const file = [...(data?.files ?? [])][0];
    if (!file || (isPaste && pastedText(data))) return;
    event.preventDefault();
    event.stopPropagation();
    this.setImage("replace", file);
  }

  // What stands in the place of the picture; empty for the picture itself, or for nothing.
  showNoPicture(text) {
    this.find(".editor-no-picture").textContent = text;
    this.find(".editor-no-picture").hidden = !text;
  }

  setImage(image, file = null) {
    if (image === "replace" && !file) return;
    this.image = image;
    this.file = file;
    URL.revokeObjectURL(this.preview);
    this.preview = file ? URL.createObjectURL(file) : null;
    const source = image === "remove" ? null : (this.preview ?? this.picture?.src);
    this.find(".editor-picture img").hidden = !source;
    if (source) this.find(".editor-picture img").src = source;
    this.find(".editor-picture img").alt = file ? file.name : (this.picture?.alt ?? "");
    this.showNoPicture(source || !this.picture ? "" : "No picture");
    this.find(".editor-swap").textContent = source ? "Other picture" : "Add a picture";
    this.find(".editor-remove").hidden = !source;
    this.find(".editor-keep").hidden = !this.picture || image === "keep";
    this.find("input").value = "";
    this.say("");
  }

  say(sentence) {
    this.find(".editor-note").textContent = sentence;
    this.setBusy(false);
  }

  setBusy(busy) {
    this.busy = busy;
    for (const part of this.form.querySelectorAll("button:not(.editor-cancel), textarea")) part.disabled = busy;
    this.find(".editor-save").textContent = busy ? "Saving …" : "Save and ask";
  }

  async save() {
    if (this.busy) return;
    const hasPicture = this.image === "replace" || (this.image === "keep" && this.picture);
    if (!this.field.value.trim() && !hasPicture) return this.say("A question needs a few words or an image.");
    if (this.locked) return this.say(LOCKED);
    this.say("");
    this.setBusy(true);
    this.watchServer();
    try {
      const file = this.file && (await uploadPicture(this.file));
      if (questionEditor !== this || !this.busy) return;
      this.triggered = performance.now();
      trigger("edit", { number: this.number, text: this.field.value, image: this.image, file });
    } catch (error) {
      this.say(error.message);
    }
    if (this.field.disabled === false) this.field.focus();
  }

  // Says that the server is lost: then nothing else ends the wait. Uploading a large picture may take long.
  watchServer() {
    this.triggered = null;
    clearInterval(this.watch);
    this.watch = setInterval(() => {
      if (!this.busy || questionEditor !== this) return clearInterval(this.watch);
      const late = this.triggered && performance.now() - this.triggered > SAVE_TIMEOUT_MS;
      if (late || connectionLost.isConnected) this.say("The demo does not answer. Please save again when it is back.");
    }, 500);
  }

  // Whether the question cannot be edited now, because an answer is being written.
  get locked() {
    return !this.row.querySelector(".edit-question");
  }

  // After each change of the page. A question that another message has replaced is no longer edited: the edit was saved, or the
  // page shows another conversation.
  checkRow() {
    const actions = this.row.isConnected && this.row.querySelector(".text-actions");
    const text = this.row.querySelector(".typed-text")?.textContent ?? "";
    const isAsked = this.busy && this.triggered && this.locked; // an edit without a change keeps its number
    if (Number(actions?.dataset?.question) !== this.number || text !== this.original || isAsked) this.close(false);
    else if (this.find(".editor-note").textContent === LOCKED && !this.locked) this.say("");
  }

  close(focus = true) {
    URL.revokeObjectURL(this.preview);
    this.form.remove();
    questionEditor = null;
    if (focus) this.row.querySelector(".edit-question")?.focus();
  }
}

// Resolves to the path of the uploaded file on the server.
async function uploadPicture(file) {
  const body = new FormData();
  body.append("files", file);
  const response = await fetch("gradio_api/upload", { method: "POST", body }).catch(() => null);
  if (response?.status === 413) throw new Error("The image is too large for this demo.");
  if (!response?.ok) throw new Error("The image could not be sent. Please try again.");
  return (await response.json())[0];
}

window.mllamaRefuseEdit = (sentence) => questionEditor?.say(sentence);

document.addEventListener("click", (event) => {
  const button = event.target.closest(".edit-question");
  if (!button) return;
  questionEditor?.close(false);
  questionEditor = new QuestionEditor(button);
});
