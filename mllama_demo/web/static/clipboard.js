// Copying on a page without HTTPS. A browser gives navigator.clipboard to pages with HTTPS and to localhost only; over plain HTTP in
// a local network, copy buttons, also those of Gradio, would do nothing. Runs as a script and as a module.
if (!navigator.clipboard) {
  const writeText = (text) => {
    const focused = document.activeElement, field = document.createElement("textarea");
    field.value = text;
    field.style = "position: fixed; top: 0; opacity: 0";
    (focused?.closest("dialog") ?? document.body).append(field); // an open dialog keeps the focus within itself
    field.select(); // Safari copies only what is selected
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus({ preventScroll: true });
    return copied ? Promise.resolve() : Promise.reject(new Error("the browser does not copy"));
  };
  Object.defineProperty(navigator, "clipboard", { value: { writeText }, configurable: true });
}
