// The dialog with code that repeats a cell.
import "../../web/static/clipboard.js";
import { button, el, forPlace, handler, request } from "./dom.js";

export async function showCode(view, cell) {
  const { file, snippets } = await forPlace(document.querySelector(".detail"), request(`runs/${view.id}/cells/${cell.index}/snippets`));
  const dialog = el("dialog", { "aria-label": `Code that repeats cell ${cell.name}`, class: "code" });
  dialog.append(
    el("div", { class: "heading" }, el("h2", {}, `Cell ${cell.name} again, without this page`), button("Close", () => dialog.close(), { class: "small" })),
    file ? el("p", {}, "With the picture saved as ", el("a", { href: `explore/runs/${view.id}/image`, download: file }, file), ".") : "",
    ...snippets.flatMap(({ title, code }) => [
      el("div", { class: "heading" }, el("h3", {}, title), button("Copy", handler((event) => copyText(code, event.target)), { class: "small", "aria-label": `Copy the ${title} code` })),
      el("pre", { tabindex: "0", "aria-label": `${title} code` }, code)]));
  showDialog(dialog);
}

export function showDialog(dialog) {
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

export async function copyText(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    pressed.textContent = "Not possible here; select the text";
  }
}
