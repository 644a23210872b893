// The sampling values of the page: which preset they are, and the browser's copy of them. Runs in the head of the page, because the
// first event of the page reads them.
(() => {
  const KEY = "sampling-values";
  const NAMES = ["greedy", "temperature", "top_p", "top_k", "max_tokens", "seed", "ignore_eos"];

  // presets: lists of name, temperature, top_p and top_k. values: greedy, temperature, top_p and top_k.
  window.mllamaPresetName = (presets, custom, [greedy, ...values]) => {
    const same = ([, ...preset]) => preset.every((value, index) => Math.abs(value - values[index]) < 1e-9);
    return (!greedy && presets.find(same)?.[0]) || custom;
  };

  window.mllamaStoredValues = () => localStorage.getItem(KEY) ?? "";

  // Default values are not stored: a later default of the demo reaches this browser.
  window.mllamaStoreValues = (values, defaults) => {
    if (values.every((value, index) => String(value) === String(defaults[index]))) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(NAMES.map((name, index) => [name, values[index]]))));
  };
})();
