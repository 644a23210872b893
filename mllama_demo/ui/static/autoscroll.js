// Which part of the conversation is in sight. Its end stays so while it grows, and when the room for it shrinks: a keyboard, a
// choice. Unless somebody reads further up, until the next question.
let log = null, atEnd = true, writing = false, welcomed = null;
const sized = new WeakSet();
const toEnd = document.createElement("button");
toEnd.id = "to-end";
toEnd.setAttribute("aria-label", "To the end of the conversation");
toEnd.addEventListener("click", goToEnd);

function setAtEnd(now) {
  atEnd = now;
  toEnd.hidden = now;
}
function goToEnd() {
  setAtEnd(true);
  if (log?.querySelector(".message-row")) log.scrollTop = log.scrollHeight;
}
window.mllamaToEnd = goToEnd;

// The conversation also moves on its own, and is followed then: what counts is who did it.
let readerMoved = 0, dragging = false;
const UPWARD = {
  wheel: (event) => event.deltaY < 0,
  touchmove: () => true,
  pointerdown: (event) => (dragging = event.target === log), // its scrollbar
  keydown: (event) => ["ArrowUp", "PageUp", "Home"].includes(event.key) || (event.key === " " && event.shiftKey),
  focusin: (event) => !!log?.contains(event.target) && event.target.matches(":focus-visible"), // by Tab, to a button further up
};
for (const [kind, upward] of Object.entries(UPWARD))
  document.addEventListener(kind, (event) => upward(event) && (readerMoved = Date.now()), { capture: true, passive: true });
document.addEventListener("pointerup", () => (dragging = false), { capture: true });

function scrolled() {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (near || !log.querySelector(".message-row")) setAtEnd(true);
  else if (dragging || Date.now() - readerMoved < 1000) setAtEnd(false);
}
const resized = new ResizeObserver(() => (atEnd ? goToEnd() : scrolled()));

// After each change of the page.
function keepPlace() {
  const now = history();
  if (!now) return;
  if (now !== log) {
    log = now;
    log.addEventListener("scroll", scrolled, { passive: true });
    log.after(toEnd);
    setAtEnd(true);
  }
  for (const part of [log, ...log.children]) {
    if (!sized.has(part)) resized.observe(part); // the chatbots come later than the room for them
    sized.add(part);
  }
  const screen = log.querySelector(".placeholder-content");
  if (screen && screen !== welcomed) log.scrollTop = 0; // the first screen begins at its head
  welcomed = screen;
  const wrote = writing;
  writing = !!log.querySelector("#live .message-row");
  if (writing && !wrote) goToEnd();
}
