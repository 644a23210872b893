// The keys that help.py lists, except those of the question field itself. Runs after chat.js, in the same scope.
const NOT_TYPED_INTO = "[type=radio], [type=checkbox], [type=range], [type=file], [type=button]";
const isTypedInto = (element) =>
  !!element?.closest?.(`input:not(${NOT_TYPED_INTO}), textarea, select, [contenteditable=true], [role=listbox]`);
const isVisible = (element) => !!element && element.checkVisibility();

function showHelp() {
  const dialog = document.querySelector("dialog.help");
  if (dialog && !dialog.open) dialog.showModal();
}

function newChat() {
  document.querySelector("#new-chat")?.click();
  questionField()?.focus();
}

document.addEventListener("click", (event) => {
  if (event.target.closest(".help-button")) showHelp();
  if (event.target.closest(".new-chat-button")) newChat();
  if (event.target.matches("dialog.help")) event.target.close(); // the backdrop
});

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || hasOpenDialog()) return;
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  const stop = document.querySelector("#stop");
  // In another field, Escape closes a list or does nothing.
  const inField = isTypedInto(event.target) && event.target !== questionField();
  if (event.key === "Escape" && plain && isVisible(stop) && !inField) stop.click();
  // By the position of the key: on a Mac, Alt and this key type another letter.
  else if (event.code === "KeyN" && event.altKey && !event.ctrlKey && !event.metaKey) newChat();
  else if (event.key === "/" && plain && !isTypedInto(event.target)) questionField()?.focus();
  else if (event.key === "?" && plain && !isTypedInto(event.target)) showHelp();
  else return;
  event.preventDefault();
});
