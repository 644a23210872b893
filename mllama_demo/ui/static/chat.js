// The few things on the page that Gradio has no event for. Runs once, inside an invisible component, in one scope with autoscroll.js,
// kiosk.js and keys.js: trigger(event, data) calls that component's handlers.
const history = () => document.querySelector("#chat-history");
const rows = () => [...history().querySelectorAll(".message-row")];

// The small buttons inside messages, whose classes say what they do: "act-walk-5" shows version 5, "act-look-5" what was seen.
let left = null; // where the pressed arrow stood: a walk draws its message anew, and the keyboard's place with it
document.addEventListener("click", (event) => {
  const button = event.target.closest(".act");
  if (!button) return;
  if (button.classList.contains("larger")) return closeup(button.closest(".sight").outerHTML);
  const act = [...button.classList].map((name) => /^act-(walk|look)-(\d+)$/.exec(name)).find(Boolean);
  if (!act) return;
  if (act[1] === "walk") {
    const row = button.closest(".message-row");
    const stepper = [...row.querySelectorAll(".stepper")].indexOf(button.closest(".stepper"));
    left = { row: rows().indexOf(row), stepper, next: button.classList.contains("next"), until: Date.now() + 10000 };
  }
  trigger(act[1] === "walk" ? "click" : "expand", { number: Number(act[2]) });
});

// Gradio names its groups of radio buttons for the eye alone, both drawers alike, and an answer's figures by their HTML.
const DRAWERS = { left: "Conversations", right: "Settings" };
let groups = 0;
function nameThings() {
  for (const toggle of document.querySelectorAll('.toggle-button[aria-label="Toggle Sidebar"]')) {
    const name = DRAWERS[toggle.closest(".sidebar").classList.contains("right") ? "right" : "left"];
    toggle.setAttribute("aria-label", name);
    toggle.title = name;
  }
  for (const part of document.querySelectorAll('#chat-history [data-testid=bot][aria-label*="<"]'))
    if (part.querySelector(".facts, .live, .versions, .progress")) part.setAttribute("aria-label", "About the answer");
  for (const label of document.querySelectorAll("fieldset [data-testid=block-info]:not([id])")) {
    label.id = `group-${++groups}`;
    label.closest("fieldset").setAttribute("aria-labelledby", label.id);
  }
}

// Once a frame: an answer under way changes the page many times in each.
let due = false;
new MutationObserver(() => {
  if (due) return;
  due = true;
  requestAnimationFrame(look);
}).observe(document.body, { childList: true, subtree: true });
function look() {
  due = false;
  nameThings();
  keepPlace();
  typeAgain();
  drawn();
  if (!left || Date.now() > left.until) return;
  if (document.activeElement && document.activeElement !== document.body) return;
  const steppers = rows()[left.row]?.querySelectorAll(".stepper") ?? [];
  const arrows = [...(steppers[Math.max(left.stepper, 0)]?.querySelectorAll("button:not([disabled])") ?? [])];
  const arrow = arrows.find((one) => one.classList.contains("next") === left.next) ?? arrows[0];
  if (arrow) {
    arrow.focus({ preventScroll: true });
    left = null;
  }
}

// How many milliseconds later than at its best the page has drawn the newest update of an answer: the clocks may differ.
let made = null, best = Infinity, behind = 0;
function drawn() {
  const now = /made-(\d+)/.exec(document.querySelector("#chat-history .live")?.className)?.[1];
  if (!now) [best, behind] = [Infinity, 0];
  else if (now !== made) {
    const lag = Date.now() - now;
    best = Math.min(best, lag);
    behind = lag - best;
  }
  made = now;
}
window.mllamaBehind = () => Math.round(behind);

// A picture's tiles over the whole page.
function closeup(html) {
  if (!html) return;
  const dialog = document.createElement("dialog");
  dialog.className = "closeup";
  dialog.setAttribute("aria-label", "What the model sees");
  dialog.innerHTML = `<form method="dialog"><h2>What the model sees</h2><button aria-label="Close">✕</button></form>${html}`;
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector(".gradio-container").append(dialog);
  dialog.showModal();
}
window.mllamaCloseup = closeup;

// The status line must not go on saying "Ready" when nobody says so any more.
const PATIENCE = 15000;
window.mllamaBeat = Date.now();
document.addEventListener("visibilitychange", () => (window.mllamaBeat = Date.now())); // timers slept in the background
const lost = document.createElement("div");
lost.className = "status down";
lost.setAttribute("role", "alert");
setInterval(() => {
  const status = document.querySelector("#status");
  if (!status || document.hidden) return;
  const late = Date.now() - window.mllamaBeat > PATIENCE;
  status.classList.toggle("lost", late);
  if (!late) return lost.remove();
  if (lost.isConnected) return;
  lost.innerHTML = '<span class="dot" aria-hidden="true"></span>No connection to the demo; trying again …';
  status.before(lost);
}, 1000);

// The page says itself that it is left. One that the browser keeps for the way back is not, unless it is a kiosk.
window.mllamaArrived = (session, idleSeconds) => {
  addEventListener("pagehide", (event) => (idleSeconds || !event.persisted) && navigator.sendBeacon(`left/${session}`));
  if (!idleSeconds) return;
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  beKiosk(Number(idleSeconds));
};

// What is typed and not sent outlives a reload, such as Gradio's own after a lost connection; nobody else's arrival, though.
const TYPED = "typed";
const box = () => document.querySelector("#chat-input textarea");
addEventListener("pagehide", () => {
  if (box()?.value && !document.body.classList.contains("kiosk")) sessionStorage.setItem(TYPED, box().value);
});
let typed = sessionStorage.getItem(TYPED);
sessionStorage.removeItem(TYPED);
if (performance.getEntriesByType("navigation")[0]?.type !== "reload") typed = null;
function typeAgain() {
  if (!typed || !box()) return;
  if (!box().value) {
    box().value = typed;
    box().dispatchEvent(new Event("input", { bubbles: true }));
  }
  typed = null;
}
