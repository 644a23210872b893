// The dialogs that are components of the page: camera, web address, sharing. They open and close without the server. While one is
// open, the rest of the page is inert: it takes neither keys nor clicks, and screen readers do not read it.
const hasOpenDialog = () => !!document.querySelector("dialog[open], .page-dialog:not(.is-hidden)");
let opener = null, inertParts = [];

function openPageDialog(selector, focused = "input, textarea, button:not(.close-dialog)") {
  const dialog = document.querySelector(selector);
  closePageDialogs();
  opener = document.activeElement;
  dialog.classList.remove("is-hidden");
  dialog.setAttribute("role", "dialog");
  dialog.setAttribute("aria-modal", "true");
  dialog.setAttribute("aria-label", dialog.querySelector("h2").textContent);
  for (let part = dialog; part !== document.body; part = part.parentElement)
    for (const other of part.parentElement.children)
      if (other !== part && !other.inert && !other.matches(".toast-wrap, script, style")) inertParts.push(other);
  for (const part of inertParts) part.inert = true;
  // Browsers allow the camera on https and on this machine only.
  if (selector === "#camera-dialog") {
    dialog.classList.toggle("no-camera", !navigator.mediaDevices);
    resumeCamera();
  }
  requestAnimationFrame(() => dialog.querySelector(focused)?.focus());
}

function closePageDialogs() {
  const open = [...document.querySelectorAll(".page-dialog:not(.is-hidden)")];
  if (!open.length) return;
  for (const dialog of open) dialog.classList.add("is-hidden");
  for (const part of inertParts) part.inert = false;
  inertParts = [];
  endCamera();
  // The server may have sent the list of conversations again, with another button in the same row.
  const row = opener?.closest("li")?.querySelector("a")?.dataset.id;
  (opener?.isConnected ? opener : rowOf(row ?? "")?.querySelector("button"))?.focus();
  opener = null;
}
window.mllamaClosePageDialogs = closePageDialogs;
window.mllamaOpenShareDialog = () => openPageDialog("#share-dialog", "#share");

document.addEventListener("click", (event) => event.target.closest(".close-dialog") && closePageDialogs());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || !document.querySelector(".page-dialog:not(.is-hidden)")) return;
  if (event.target.getAttribute?.("aria-expanded") === "true") return; // Escape closes this list
  event.preventDefault(); // keys.js would stop the answer
  closePageDialogs();
}, true);
