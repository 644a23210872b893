// The sidebars on a screen on which they cover the conversation. See gradio_patches/sidebars.py for the width from which they do not.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing || innerWidth >= 1100 || hasOpenDialog()) return;
  const open = event.target.closest?.(".sidebar.open") ?? document.querySelector(".sidebar.open");
  const toggle = open?.querySelector(".toggle-button");
  if (!toggle?.checkVisibility() || event.target.closest?.('[aria-expanded="true"]')) return; // an open list of choices closes first
  event.preventDefault(); // keys.js would stop the answer
  toggle.click();
  toggle.focus();
});
