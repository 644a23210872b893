// Names for screen readers where Gradio gives none. Called after each change of the page.
//
// Gradio: 6.31.0
// Defect: both sidebars have the same button name, "Toggle Sidebar"; a group of radio buttons is not connected with its
//   visible label; the question field is set from left to right in every language; the name of a chatbot message that is HTML is that HTML; the examples are buttons in a "list", and the attached
//   files are list items in no list.
// Report: no upstream report known
// Test: tests/browser/test_accessibility.py::test_the_chat_page_has_no_accessibility_violation
const SIDEBAR_NAMES = { left: "Conversations", right: "Settings" };
let namedGroups = 0;
function addAccessibleNames() {
  const field = questionField();
  if (field && field.dir !== "auto") field.dir = "auto";
  for (const toggle of document.querySelectorAll('.toggle-button[aria-label="Toggle Sidebar"]')) {
    const name = SIDEBAR_NAMES[toggle.closest(".sidebar").classList.contains("right") ? "right" : "left"];
    toggle.setAttribute("aria-label", name);
    toggle.title = name;
  }
  for (const part of document.querySelectorAll('#chat-history [data-testid][aria-label*="<"]')) part.removeAttribute("aria-label");
  for (const label of document.querySelectorAll("fieldset [data-testid=block-info]:not([id])")) {
    label.id = `group-${++namedGroups}`;
    label.closest("fieldset").setAttribute("aria-labelledby", label.id);
  }
  for (const examples of document.querySelectorAll("#chat-history .examples[role=list]")) {
    examples.setAttribute("role", "group");
    examples.setAttribute("aria-label", "Examples");
  }
  for (const file of document.querySelectorAll("#chat-input .thumbnails [role=listitem]")) file.setAttribute("role", "presentation");
}
