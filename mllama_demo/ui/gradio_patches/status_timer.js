// Ends a loop of 60 frames a second in a page on which nothing happens.
//
// Gradio: 6.31.0
// Defect: the status of the loading page counts the seconds in a loop of animation frames, which never ends: the status is removed
//   while it is pending. Every page therefore computes a frame sixty times a second for as long as it is open.
// Report: no upstream report known
// Test: tests/browser/ui/test_gradio_patches.py::test_a_page_on_which_nothing_happens_asks_for_no_frames
//
// The script stands in the head of the page, because Gradio's scripts keep the function that they find. No event of the page shows
// a status (error_overlay.py), so that no other timer is needed either.
(() => {
  const TIMER = /\(performance\.now\(\)\s*-\s*\w+\(\w+\)\)\s*\/\s*1e3/;
  const original = window.requestAnimationFrame;
  window.requestAnimationFrame = (callback) => (TIMER.test(callback) ? 0 : original.call(window, callback));
})();
