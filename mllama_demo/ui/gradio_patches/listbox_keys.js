// Keeps keys that leave a list, such as Tab, from the list.
//
// Gradio: 6.31.0
// Defect: the keydown handler of a Dropdown waits a tick. The focus has left the list by then, the list has closed, and the handler
//   opens it again, filtered by its own text; it stays open until somebody uses it.
// Report: no upstream report known
// Test: tests/browser/ui/test_keys.py::test_tab_leaves_a_list_closed_and_escape_in_a_field_does_not_stop_the_answer
addEventListener("keydown", (event) => {
  const combined = event.altKey || event.ctrlKey || event.metaKey;
  if (!event.isTrusted || !event.target.closest?.("input:is([role=combobox], [role=listbox])") || (event.key !== "Tab" && !combined)) return;
  event.stopPropagation();
  // The keys of the page, such as Alt + N, are for keys.js.
  if (combined && !document.body.dispatchEvent(new KeyboardEvent("keydown", event))) event.preventDefault();
}, true);
