// Copy buttons of Gradio on a page without HTTPS.
//
// Gradio: 6.31.0, 6.17.3
// Defect: a browser gives navigator.clipboard to pages with HTTPS and to localhost only. Gradio's copy buttons need it: over plain
//   HTTP in a local network a click does nothing.
// Report: no upstream report known
// Test: tests/browser/ui/test_plain_http.py::test_a_share_link_is_copied_over_plain_http
if (!navigator.clipboard) {
  const writeText = (text) => {
    const copy = (event) => {
      event.clipboardData.setData("text/plain", text);
      event.preventDefault();
    };
    document.addEventListener("copy", copy, { once: true });
    const copied = document.execCommand("copy");
    document.removeEventListener("copy", copy);
    return copied ? Promise.resolve() : Promise.reject(new Error("the browser does not copy"));
  };
  Object.defineProperty(navigator, "clipboard", { value: { writeText }, configurable: true });
}
