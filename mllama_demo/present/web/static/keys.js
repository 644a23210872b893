// The keys of the stage and of the notes window. Presenter remotes send the arrow keys, Page Up and Page Down, and b or a full stop.
const KEYS = {
  ArrowRight: "next", PageDown: "next", " ": "next", ArrowLeft: "back", PageUp: "back",
  r: "again", p: "recorded", b: "black", ".": "black", q: "question", n: "notes", f: "full",
};

// A button that is pressed with a pointer gives the focus back, so that Space remains the key for the next step. In the capture phase:
// a dialog that the button opens returns the focus to where it was.
addEventListener("click", (event) => event.detail > 0 && event.target.closest?.("button, summary")?.blur(), true);

// Calls act with the name of each pressed key. What is typed into a field is no command.
export function onKeys(act) {
  addEventListener("keydown", (event) => {
    // The focus may still be in the field of a dialog that was just closed.
    const typed = event.target.closest?.("input, textarea, dialog")?.checkVisibility();
    if (event.ctrlKey || event.metaKey || event.altKey || typed) return;
    const name = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (event.repeat && (name || event.key === "Enter")) return event.preventDefault(); // ignores the repetitions of a held key
    if (!name || (event.key === " " && event.target.closest("button, a, summary"))) return;
    event.preventDefault();
    act(name);
  });
}

// Minutes and seconds since a time in milliseconds; 0:00 without one.
export function clockFrom(since) {
  const seconds = since ? Math.floor((Date.now() - since) / 1000) : 0;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

// A question is sent with Enter. Shift and Enter begin a new line.
export function sendOnEnter(field) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    field.form.requestSubmit(field.form.querySelector("button"));
  });
}
