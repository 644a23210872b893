// A browser that blocks storage throws an error when a script only reads window.localStorage or window.sessionStorage. Such a
// browser gets a storage that lasts as long as the page. Runs in the head, before Gradio and the other scripts.
for (const name of ["localStorage", "sessionStorage"]) {
  try {
    window[name].getItem("");
  } catch {
    const items = new Map();
    const storage = {
      getItem: (key) => items.get(String(key)) ?? null,
      setItem: (key, value) => void items.set(String(key), String(value)),
      removeItem: (key) => void items.delete(String(key)),
      clear: () => items.clear(),
      key: (index) => [...items.keys()][index] ?? null,
      get length() { return items.size; },
    };
    Object.defineProperty(window, name, { value: storage, configurable: true });
  }
}
