// Opens a link of this page that stands under an answer in the same tab, as its address says. Ctrl and the middle button still
// open another tab.
//
// Gradio: 6.31.0
// Defect: the chatbot's sanitiser gives every link target="_blank", also a link to another page of the same site.
// Report: no upstream report known
// Test: tests/browser/explore/test_chat_link.py::test_an_answer_of_the_chat_is_explored_and_used_in_the_chat_again
document.addEventListener("click", (event) => {
  const link = event.target.closest(".explore-link a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  window.location.assign(link.href);
});
