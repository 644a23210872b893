// Keeps the screen on: a laptop would turn it off in the middle of a talk. Runs as a script and as a module. Browsers have the wake
// lock on pages with HTTPS and on localhost only, and take it away from a page that is hidden. Battery savers may refuse it.
globalThis.mllamaKeepScreenOn = () => {
  if (!navigator.wakeLock) return;
  const lock = () => document.visibilityState === "visible" && navigator.wakeLock.request("screen").catch(() => {});
  document.addEventListener("visibilitychange", lock);
  lock();
};
