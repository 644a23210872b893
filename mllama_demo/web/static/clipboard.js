// Copies text. A page that is not served over HTTPS has no navigator.clipboard; document.execCommand works there.
// Resolves to whether the text was copied.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const copy = (event) => {
      event.preventDefault();
      event.stopImmediatePropagation();
      event.clipboardData.setData("text/plain", text);
    };
    document.addEventListener("copy", copy, { capture: true, once: true });
    const copied = document.execCommand("copy");
    document.removeEventListener("copy", copy, { capture: true });
    return copied;
  }
}
