// The dialog that makes a link to a run, and ends the links that were made.
import { $, button, el, forPlace, handler, post, request } from "./dom.js";
import { copyText, showDialog } from "./code.js";

export async function showShare(view) {
  const dialog = el("dialog", { "aria-label": `Share ${view.title}`, "data-messages": "" });
  const link = el("input", { readonly: true, "aria-label": "Link", onfocus: (event) => event.target.select() });
  const linkRow = el("p", { class: "share-link", hidden: true }, link, button("Copy", handler((event) => copyText(link.value, event.target)), { class: "small" }));
  const status = el("p", { class: "hint", role: "status" });
  const { lifetimes, default: usual, expires } = await forPlace($("run-actions"), request(`runs/${view.id}/shares`));
  const lifetime = el("select", {}, ...lifetimes.map((text) => el("option", { selected: text === usual }, text)));
  const stop = button("Stop sharing", handler(async () => {
    const state = await request(`runs/${view.id}/shares`, { method: "DELETE" });
    linkRow.hidden = true;
    showState(state);
    status.textContent = "The links no longer work.";
  }), { class: "small danger" });
  const create = button("Create a link", handler(async () => {
    const state = await post(`runs/${view.id}/shares`, { lifetime: lifetime.value });
    link.value = new URL(state.path, window.location.origin).href;
    linkRow.hidden = false;
    showState(state);
    link.focus();
  }), { class: "primary" });
  function showState({ expires: ends }) {
    const until = ends.length ? new Date(ends[0]).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }) : "";
    status.textContent = ends.length ? `${ends.length === 1 ? "One link" : `${ends.length} links`} to this run, until ${until}. A link is shown only once.` : "";
    stop.hidden = !ends.length;
  }
  showState({ expires });
  dialog.append(el("div", { class: "heading" }, el("h2", {}, "Share this run"), button("Close", () => dialog.close(), { class: "small" })),
    el("p", {}, "Everyone who has the link can read the run, with its prompt and its picture. Only you can change it."),
    el("div", { class: "actions" }, el("label", {}, "For ", lifetime), create), linkRow, status, stop);
  showDialog(dialog);
}
