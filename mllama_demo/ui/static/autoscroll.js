// Keeps the end of the conversation in view while it grows and while its container shrinks, for example for a phone's keyboard.
// A reader who scrolls up stays there until the next question.
let scrollArea = null, atEnd = true, answerShown = false, shownPlaceholder = null;
const observedParts = new WeakSet();
const scrollButton = document.createElement("button");
scrollButton.id = "scroll-to-end";
scrollButton.setAttribute("aria-label", "To the end of the conversation");
scrollButton.addEventListener("click", scrollToEnd);

function setAtEnd(value) {
  atEnd = value;
  scrollButton.hidden = value;
}
function scrollToEnd() {
  setAtEnd(true);
  if (scrollArea?.querySelector(".message-row")) scrollArea.scrollTop = scrollArea.scrollHeight;
}
window.mllamaScrollToEnd = scrollToEnd;

// The browser and this script scroll too. Only a scroll that follows one of these events is the reader's.
let readerScrolled = -Infinity, draggingScrollbar = false; // not 0, which is the time at which the page was opened
const SCROLLS_UP = {
  wheel: (event) => event.deltaY < 0,
  touchmove: () => true,
  pointerdown: (event) => (draggingScrollbar = event.target === scrollArea),
  keydown: (event) => ["ArrowUp", "PageUp", "Home"].includes(event.key) || (event.key === " " && event.shiftKey),
  focusin: (event) => !!scrollArea?.contains(event.target) && event.target.matches(":focus-visible"), // Tab to a button further up
};
for (const [type, scrollsUp] of Object.entries(SCROLLS_UP))
  document.addEventListener(type, (event) => scrollsUp(event) && (readerScrolled = performance.now()), { capture: true, passive: true });
document.addEventListener("pointerup", () => (draggingScrollbar = false), { capture: true });

function onScroll() {
  const nearEnd = scrollArea.scrollHeight - scrollArea.scrollTop - scrollArea.clientHeight < 40;
  if (nearEnd || !scrollArea.querySelector(".message-row")) setAtEnd(true);
  else if (draggingScrollbar || performance.now() - readerScrolled < 1000) setAtEnd(false);
}
const resizeObserver = new ResizeObserver(() => (atEnd ? scrollToEnd() : onScroll()));

// Called after each change of the page.
function keepScrollPosition() {
  const current = history();
  if (!current) return;
  if (current !== scrollArea) {
    scrollArea = current;
    scrollArea.addEventListener("scroll", onScroll, { passive: true });
    scrollArea.after(scrollButton);
    setAtEnd(true);
  }
  for (const part of [scrollArea, ...scrollArea.children]) {
    if (!observedParts.has(part)) resizeObserver.observe(part); // Gradio adds the chatbots later than their column
    observedParts.add(part);
  }
  const placeholder = scrollArea.querySelector(".placeholder-content");
  if (placeholder && placeholder !== shownPlaceholder) scrollArea.scrollTop = 0; // the first screen begins at its top
  shownPlaceholder = placeholder;
  const wasShown = answerShown;
  answerShown = !!scrollArea.querySelector("#live-answer .message-row");
  if (answerShown && !wasShown) scrollToEnd();
}
