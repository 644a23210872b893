// Keeps the page in one language.
//
// Gradio: 6.31.0, 6.17.3
// Defect: Gradio translates its own texts ("Submit", "Drop File Here", errors) into the language of the browser. The texts of this
//   demo are English; a page of two languages is hard to read, and a screen reader pronounces one of them wrongly.
// Report: no upstream report known
// Test: tests/browser/ui/test_opening.py::test_the_page_is_english_in_a_browser_of_another_language
for (const [name, value] of [["language", "en"], ["languages", ["en"]]])
  Object.defineProperty(navigator, name, { get: () => value, configurable: true });
