// Keeps the text of the question field over a reload of the page. A kiosk does not: another person may sit down there.
//
// Gradio: 6.31.0
// Defect: after a lost connection Gradio's client reloads the page, and what was typed is lost.
// Report: https://github.com/gradio-app/gradio/pull/12907
// Test: tests/browser/ui/test_lost_connection.py::test_after_a_lost_connection_the_page_reconnects_and_the_answer_goes_on
const TYPED_TEXT = "typed";
addEventListener("pagehide", () => {
  const text = questionField()?.value;
  if (text && !document.body.classList.contains("kiosk")) sessionStorage.setItem(TYPED_TEXT, text);
});
let typedText = sessionStorage.getItem(TYPED_TEXT);
sessionStorage.removeItem(TYPED_TEXT);
if (performance.getEntriesByType("navigation")[0]?.type !== "reload") typedText = null;
function restoreTypedText() {
  const field = questionField();
  if (!typedText || !field) return;
  if (!field.value) {
    field.value = typedText;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  typedText = null;
}
