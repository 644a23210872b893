// A kiosk: no settings, and the first screen again when nobody has touched it for a while. It says so some seconds before.
const COUNTED_SECONDS = 10;
function beKiosk(seconds) {
  document.body.classList.add("kiosk");
  const counted = Math.min(COUNTED_SECONDS, seconds / 2);
  const countdown = document.createElement("div");
  countdown.id = "kiosk-countdown";
  countdown.hidden = true;
  countdown.innerHTML = '<div><strong role="alert"></strong><span class="left" aria-hidden="true"></span></div>';
  document.querySelector(".gradio-container").append(countdown);
  let touched = Date.now();
  const dialogs = () => [...document.querySelectorAll("dialog[open]")];
  const count = (left) => {
    // Read out once; the number alone changes every second.
    if (countdown.hidden !== (left === null))
      countdown.querySelector("strong").textContent = left === null ? "" : "Still there? Touch the screen to go on.";
    countdown.hidden = left === null;
    countdown.querySelector(".left").textContent = left === null ? "" : `Everything here will be deleted in ${left} s`;
  };
  const touch = () => {
    touched = Date.now();
    if (!countdown.hidden) count(null);
  };
  for (const event of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"])
    addEventListener(event, touch, { capture: true, passive: true });
  setInterval(() => {
    const stop = document.querySelector("#stop");
    const asked = document.querySelector("#chat-history .message-row") || document.querySelector("#chat-input textarea")?.value ||
      document.querySelector("#chat-input .thumbnails img") || dialogs().length;
    if (stop?.offsetParent || !asked) return touch();
    const left = seconds - (Date.now() - touched) / 1000;
    if (left > counted) return;
    dialogs().forEach((dialog) => dialog.close()); // they would lie over the countdown, and keep what they show
    if (left > 0) return count(Math.ceil(left));
    touch();
    document.querySelector("#kiosk-anew").click();
  }, 500);
}
