// The keys that help.py lists, besides those that the question field has by itself. Runs after chat.js, in the same scope.
const field = () => document.querySelector("#chat-input textarea");
const CHOOSING = "[type=radio], [type=checkbox], [type=range], [type=file], [type=button]";
const typing = (element) =>
  !!element?.closest?.(`input:not(${CHOOSING}), textarea, select, [contenteditable=true], [role=listbox]`);
const seen = (element) => !!element && element.checkVisibility();

function showHelp() {
  const dialog = document.querySelector("dialog.help");
  if (dialog && !dialog.open) dialog.showModal();
}

function newChat() {
  document.querySelector("#new-chat")?.click();
  field()?.focus();
}

document.addEventListener("click", (event) => {
  if (event.target.closest(".helping")) showHelp();
  if (event.target.closest(".fresh")) newChat();
  if (event.target.matches("dialog.help")) event.target.close(); // the backdrop
});

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  const stop = document.querySelector("#stop");
  if (event.key === "Escape" && plain && seen(stop)) stop.click();
  // By its place on the keyboard: with Alt, the key types another letter on a Mac.
  else if (event.code === "KeyN" && event.altKey && !event.ctrlKey && !event.metaKey) newChat();
  else if (event.key === "/" && plain && !typing(event.target)) field()?.focus();
  else if (event.key === "?" && plain && !typing(event.target)) showHelp();
  else return;
  event.preventDefault();
});

// An image that is pasted somewhere else goes where it is meant to go.
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
  if (!files.length || !field() || typing(event.target) || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  const clipboard = new DataTransfer();
  for (const file of files) clipboard.items.add(file);
  field().focus();
  field().dispatchEvent(new ClipboardEvent("paste", { clipboardData: clipboard, bubbles: true, cancelable: true }));
});
