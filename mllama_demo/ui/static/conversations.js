// The list of conversations: groups by date, the menu of a row, the address, the tab's title, Back and Forward.
// The server sends the rows (sidebar.py). Dates depend on the time zone of the browser.
const SITE_TITLE = document.title;
const DAY_MS = 24 * 3600 * 1000;
const conversationList = () => document.querySelector("#conversations ol");
const rowOf = (id) => conversationList()?.querySelector(`a[data-id="${CSS.escape(id)}"]`)?.closest("li");
const shownId = () => new URL(location).searchParams.get("c") ?? "";

// --- groups and the row of the open conversation ---------------------------------------------------------------------------

function groupName(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  if (time >= midnight - 7 * DAY_MS) return "Previous 7 days";
  const date = new Date(time), thisYear = date.getFullYear() === new Date().getFullYear();
  return date.toLocaleDateString("en", { month: "long", ...(thisYear ? {} : { year: "numeric" }) });
}

function addGroups(list) {
  let before = null;
  for (const row of [...list.children]) {
    const name = groupName(Number(row.dataset.updated));
    if (name !== before) {
      const heading = document.createElement("li");
      heading.className = "group";
      heading.textContent = before = name;
      row.before(heading);
    }
  }
}

let seenId = null; // the conversation whose row was last scrolled into view
function markShown(id) {
  for (const link of conversationList()?.querySelectorAll("a") ?? []) {
    if (link.dataset.id === id) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const row = rowOf(id), area = row?.closest(".sidebar-content");
  if (!area || seenId === id) return;
  seenId = id;
  // Not scrollIntoView: in a closed drawer it would scroll the page sideways.
  const [top, bottom] = [row, area].map((part) => part.getBoundingClientRect()).map((box, index) => (index ? box.bottom : box.top));
  const above = top - area.getBoundingClientRect().top;
  if (above < 0 || top + row.offsetHeight > bottom) area.scrollTop += above - area.clientHeight / 2;
}

let oldestShown = null; // how many rows there were when the visitor asked for older ones: the first of those gets the focus
// Called after each change of the page.
function updateConversationList() {
  const list = conversationList();
  if (!list || list.querySelector(".group")) return; // the groups are lost when the server sends the list again
  addGroups(list);
  keepRowMenu();
  if (oldestShown !== null) list.querySelectorAll("a")[oldestShown]?.focus();
  oldestShown = null;
  markShown(shownId());
  if (renaming) startRenaming(renaming.id, renaming.title); // the server sent the list again meanwhile
}

// --- the address -----------------------------------------------------------------------------------------------------------

let openedFromList = false, replaceEntry = false, openId = shownId();
window.mllamaShowConversation = (id) => {
  const url = new URL(location), before = shownId();
  if (id) url.searchParams.set("c", id);
  else url.searchParams.delete("c");
  // A new chat that gets its address with its first question is the same entry of the history.
  const same = before === id || (!before && !openedFromList) || replaceEntry;
  window.history[same ? "replaceState" : "pushState"](null, "", url);
  openedFromList = replaceEntry = false;
  openId = id;
  rememberConversation(id);
  markShown(id);
  window.mllamaScrollToEnd?.();
};
window.mllamaShowTitle = (title) => (document.title = title ? `${title} · ${SITE_TITLE}` : SITE_TITLE);

// Read by chat_head.js when another page of the demo leads back to the chat.
function rememberConversation(id) {
  try {
    if (id) sessionStorage.setItem("conversation", id);
    else sessionStorage.removeItem("conversation");
  } catch {} // the browser blocks storage
}

function openConversation(id) {
  [openedFromList, replaceEntry] = [true, false];
  trigger("select", { id });
}
addEventListener("popstate", () => {
  if (shownId() === openId) return; // only the fragment has changed
  replaceEntry = true;
  trigger("select", { id: shownId() });
});

// On a phone the sidebar covers the conversation.
function closeDrawer() {
  if (innerWidth < 1100) document.querySelector(".sidebar.open:not(.right) .toggle-button")?.click();
}

// --- the menu of a row -----------------------------------------------------------------------------------------------------

const ROW_ACTIONS = [
  ["rename", "Rename"],
  ["share", "Share …"],
  ["html", "Export as HTML"],
  ["md", "Export as Markdown"],
  ["json", "Export as JSON"],
  ["delete", "Delete"],
];
let rowMenu = null; // { element, button, id }

function closeRowMenu(focusButton = false) {
  if (!rowMenu) return;
  const { element, button } = rowMenu;
  rowMenu = null;
  element.remove();
  button.setAttribute("aria-expanded", "false");
  if (focusButton) button.focus();
}

// The server has sent the list again: the menu belongs to the new button of its row.
function keepRowMenu() {
  const button = rowMenu && rowOf(rowMenu.id)?.querySelector(".row-actions");
  if (!button) return closeRowMenu();
  rowMenu.button = button;
  button.setAttribute("aria-expanded", "true");
}

function openRowMenu(button) {
  closeRowMenu();
  const link = button.closest("li").querySelector("a"), element = document.createElement("div");
  element.id = "row-menu";
  element.setAttribute("role", "menu");
  element.setAttribute("aria-label", link.textContent);
  for (const [action, label] of ROW_ACTIONS) {
    const item = document.createElement("button");
    Object.assign(item, { type: "button", textContent: label, tabIndex: -1, className: action });
    item.setAttribute("role", "menuitem");
    item.addEventListener("click", () => {
      closeRowMenu(action !== "rename");
      actOnRow(action, link.dataset.id, link.textContent);
    });
    element.append(item);
  }
  button.closest(".sidebar-content").append(element); // not in the list, which the server sends again
  element.popover = "manual"; // above the sidebar, which clips what is in it
  element.showPopover();
  const box = button.getBoundingClientRect(), { offsetHeight: height, offsetWidth: width } = element;
  element.style.left = `${Math.max(8, Math.min(box.right - width, innerWidth - width - 8))}px`;
  element.style.top = `${box.bottom + height + 8 > innerHeight ? Math.max(8, box.top - height) : box.bottom}px`;
  button.setAttribute("aria-expanded", "true");
  rowMenu = { element, button, id: link.dataset.id };
  element.firstChild.focus();
}

function actOnRow(action, id, title) {
  if (action === "rename") startRenaming(id, title);
  else if (action === "share") trigger("apply", { id, title });
  else if (action === "delete") {
    replaceEntry = id === openId; // Back must not lead to what was deleted
    trigger("delete", { id });
  } else trigger("download", { id, kind: action });
}

function onMenuKey(event) {
  const items = [...rowMenu.element.children], index = items.indexOf(document.activeElement);
  const target = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: -1 }[event.key];
  if (target !== undefined) items.at(target % items.length).focus();
  else if (event.key === "Escape") closeRowMenu(true);
  else if (event.key === "Tab") return closeRowMenu(true);
  else if (event.key === "Enter" || event.key === " ") return;
  event.preventDefault(); // keys.js would stop the answer at Escape
}

// --- renaming in the row ---------------------------------------------------------------------------------------------------

let renaming = null; // { id, title: as typed so far }
function startRenaming(id, title) {
  const row = rowOf(id);
  renaming = row && { id, title };
  if (!row) return;
  const link = row.querySelector("a"), field = document.createElement("input");
  Object.assign(field, { value: title, maxLength: 120, className: "rename", autocomplete: "off" });
  field.setAttribute("aria-label", "Title of the conversation");
  const end = (save) => {
    if (!renaming || !field.isConnected) return;
    const typed = field.value.trim();
    renaming = null;
    field.replaceWith(link);
    if (save && typed && typed !== link.textContent) {
      link.textContent = typed;
      trigger("submit", { id, title: typed });
    }
  };
  field.addEventListener("input", () => (renaming.title = field.value));
  field.addEventListener("blur", () => end(true));
  field.addEventListener("keydown", (event) => {
    event.stopPropagation(); // keys.js would stop the answer at Escape
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    end(event.key === "Enter");
    link.focus();
  });
  link.replaceWith(field);
  field.focus();
  field.select();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("#conversations .row-actions"), link = event.target.closest("#conversations a");
  if (button) return rowMenu?.button === button ? closeRowMenu(true) : openRowMenu(button);
  closeRowMenu();
  if (event.target.closest("#new-chat, #restore")) closeDrawer();
  if (event.target.closest("#new-chat")) {
    // Also where a conversation was clicked before and has not come: the server says nothing new then.
    openedFromList = false;
    markShown("");
  }
  if (event.target.closest("#show-older")) {
    oldestShown = conversationList().querySelectorAll("a").length;
    trigger("end", {});
  }
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser opens a tab or a window
  event.preventDefault();
  markShown(link.dataset.id);
  openConversation(link.dataset.id);
  closeDrawer();
});
document.addEventListener("keydown", (event) => rowMenu?.element.contains(event.target) && onMenuKey(event), true);
addEventListener("resize", () => closeRowMenu());
document.addEventListener("scroll", (event) => event.target.contains(rowMenu?.button) && closeRowMenu(), { capture: true, passive: true });
