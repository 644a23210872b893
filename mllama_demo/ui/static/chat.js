// What the chat page does in the browser and Gradio has no event for. The script runs once, inside an invisible gr.HTML, in one
// scope with the other scripts that theme.py joins. trigger(event, data) calls the Python handlers of that component.
const history = () => document.querySelector("#chat-history");
const messageRows = () => [...history().querySelectorAll(".message-row")];
const questionField = () => document.querySelector("#chat-input textarea");

// The buttons inside messages. A class names the action and the number of the version: "select-version-5", "preview-5".
let pressedArrow = null; // an arrow redraws its message; the new arrow in the same place gets the keyboard focus
document.addEventListener("click", (event) => {
  const button = event.target.closest(".message-action");
  if (!button) return;
  if (button.classList.contains("try-again")) return trigger("retry", {});
  if (button.classList.contains("continue-answer")) return trigger("play", {});
  if (button.classList.contains("enlarge")) return openTileDialog(button.closest(".tile-view").outerHTML);
  const action = [...button.classList].map((name) => /^(select-version|preview)-(\d+)$/.exec(name)).find(Boolean);
  if (!action) return;
  if (action[1] === "select-version") {
    const row = button.closest(".message-row");
    const stepper = [...row.querySelectorAll(".stepper")].indexOf(button.closest(".stepper"));
    const next = button.classList.contains("next");
    pressedArrow = { row: messageRows().indexOf(row), stepper, next, until: performance.now() + 10000 };
  }
  trigger(action[1] === "preview" ? "expand" : "click", { number: Number(action[2]) });
});

function focusPressedArrow() {
  if (!pressedArrow || performance.now() > pressedArrow.until) return;
  if (document.activeElement && document.activeElement !== document.body) return;
  const steppers = messageRows()[pressedArrow.row]?.querySelectorAll(".stepper") ?? [];
  const arrows = [...(steppers[Math.max(pressedArrow.stepper, 0)]?.querySelectorAll("button:not([disabled])") ?? [])];
  const arrow = arrows.find((one) => one.classList.contains("next") === pressedArrow.next) ?? arrows[0];
  if (arrow) {
    arrow.focus({ preventScroll: true });
    pressedArrow = null;
  }
}

// At most once a frame: an answer that is being written changes the page many times in each.
let frameRequested = false;
new MutationObserver(() => {
  if (frameRequested) return;
  frameRequested = true;
  requestAnimationFrame(onPageChange);
}).observe(document.body, { childList: true, subtree: true });
function onPageChange() {
  frameRequested = false;
  addAccessibleNames();
  completeMessages();
  questionEditor?.checkRow();
  keepScrollPosition();
  measureDrawLag();
  focusPressedArrow();
  updateConversationList();
  markAttachments();
}

// How much later than its quickest update the page drew the newest update of an answer, in milliseconds. The difference is
// compared, because the clocks of server and browser begin at different times.
let lastSent = null, smallestLag = Infinity, drawLag = 0;
function measureDrawLag() {
  const sent = /sent-(\d+)/.exec(document.querySelector("#chat-history .live-metadata")?.className)?.[1];
  if (!sent) [smallestLag, drawLag] = [Infinity, 0];
  else if (sent !== lastSent) {
    window.mllamaLastContact = performance.now();
    const lag = performance.now() - sent;
    smallestLag = Math.min(smallestLag, lag);
    drawLag = lag - smallestLag;
  }
  lastSent = sent;
}

// Shows the tiles of an image over the whole page.
function openTileDialog(html) {
  if (!html) return;
  const dialog = document.createElement("dialog");
  dialog.className = "tile-dialog";
  dialog.setAttribute("aria-label", "What the model sees");
  dialog.innerHTML = `<form method="dialog"><h2>What the model sees</h2><button aria-label="Close">✕</button></form>${html}`;
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector(".gradio-container").append(dialog);
  dialog.showModal();
}
window.mllamaOpenTileDialog = openTileDialog;

// A browser without cookies: the server cannot know it again.
function showNoCookies() {
  const notice = document.createElement("p");
  notice.className = "status";
  notice.setAttribute("role", "status");
  notice.textContent = "This browser keeps no cookies for this page: its conversations are gone when it is closed or reloaded.";
  document.querySelector("#status")?.after(notice);
}

window.mllamaStartSession = (session, remembered, kioskIdleSeconds) => {
  window.mllamaPageId = session;
  if (remembered === "forgotten") showNoCookies();
  reportPageClose(session, kioskIdleSeconds);
  if (kioskIdleSeconds) startKiosk(Number(kioskIdleSeconds));
};
