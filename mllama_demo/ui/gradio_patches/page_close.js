// Tells the server that the page was closed, with a POST to closed/SESSION (mount.py has the route).
//
// Gradio: 6.31.0
// Defect: with an `unload` listener every open page holds one HTTP connection. A browser allows six connections to a host:
//   three pages with an answer in progress used all six, and the Stop button could not send its request.
// Report: https://github.com/gradio-app/gradio/issues/8346
// Test: tests/unit/ui/test_closed_pages.py::test_an_open_page_holds_no_connection
function reportPageClose(session, kioskIdleSeconds) {
  // A page in the browser's back/forward cache (persisted) may be shown again; a kiosk's page must not be.
  addEventListener("pagehide", (event) => (kioskIdleSeconds || !event.persisted) && navigator.sendBeacon(`closed/${session}`));
  if (kioskIdleSeconds) addEventListener("pageshow", (event) => event.persisted && location.reload());
}
