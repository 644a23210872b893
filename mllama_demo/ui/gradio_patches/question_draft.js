// Keeps the text and the files of the question field while the page is reloaded or left for another page of the demo. A kiosk keeps
// nothing, and neither does a page on which somebody else is signed in: another person may sit there.
//
// Gradio: 6.31.0
// Defect: after a lost connection Gradio's client reloads the page, and what was typed and attached is lost.
// Report: https://github.com/gradio-app/gradio/pull/12907
// Test: tests/browser/ui/test_lost_connection.py::test_after_a_lost_connection_the_page_reconnects_and_the_answer_goes_on
const DRAFT = "draft";
const account = () => document.querySelector("#account")?.textContent.trim() ?? "";
let unrestored = null; // a draft that the page has not got back yet
try {
  unrestored = JSON.parse(sessionStorage.getItem(DRAFT));
} catch {} // not written by this script
sessionStorage.removeItem(DRAFT);
const isFromDemo = document.referrer.startsWith(location.origin + "/");
if (!["reload", "back_forward"].includes(performance.getEntriesByType("navigation")[0]?.type) && !isFromDemo) unrestored = null;
window.mllamaAttached = []; // the files of the question field, see event_scripts.py

addEventListener("pagehide", () => {
  if (document.body.classList.contains("kiosk")) return;
  const typed = { text: questionField()?.value ?? "", files: window.mllamaAttached, account: account() };
  const draft = typed.text || typed.files.length ? typed : unrestored;
  if (draft) sessionStorage.setItem(DRAFT, JSON.stringify(draft));
  // The page may have been left before, and shown again from the browser's back/forward cache.
  else sessionStorage.removeItem(DRAFT);
});

// value: of the question field. Returns it with the draft.
window.mllamaRestoreDraft = (value) => {
  const draft = unrestored;
  unrestored = null;
  if (!draft || draft.account !== account() || document.body.classList.contains("kiosk")) return value;
  const { text = "", files = [] } = value ?? {};
  return { text: text || draft.text, files: [...files, ...draft.files] };
};
