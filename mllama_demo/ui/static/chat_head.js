// Runs in the head of the page, before Gradio reads the address. A link of another page of the demo that leads back to the chat
// opens the conversation that was on the page before.
(() => {
  try {
    const navigation = performance.getEntriesByType("navigation")[0];
    const from = document.referrer && new URL(document.referrer);
    const id = sessionStorage.getItem("conversation");
    if (!id || location.search || navigation?.type !== "navigate" || !from || from.origin !== location.origin) return;
    if (from.pathname === location.pathname || /\/(login|logout)$/.test(from.pathname)) return;
    history.replaceState(null, "", `?c=${encodeURIComponent(id)}`);
  } catch {} // the browser blocks storage
})();
