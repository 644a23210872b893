// Kiosk mode: hides the settings, and resets the page when nobody has touched it for a while, after a countdown.
const COUNTDOWN_SECONDS = 10;
function closeAllDialogs() {
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  closePageDialogs();
}
function startKiosk(idleSeconds) {
  document.body.classList.add("kiosk");
  globalThis.mllamaKeepScreenOn();
  const countdownSeconds = Math.min(COUNTDOWN_SECONDS, idleSeconds / 2);
  const countdown = document.createElement("div");
  countdown.id = "kiosk-countdown";
  countdown.hidden = true;
  countdown.innerHTML = '<div><strong role="alert"></strong><span class="seconds-left" aria-hidden="true"></span></div>';
  document.querySelector(".gradio-container main").append(countdown);
  // One clock may be set back, and the other stands still while the machine sleeps: whichever shows more has the last word.
  const clocks = () => [Date.now(), performance.now()];
  let lastInput = clocks();
  const idleMs = () => Math.max(...clocks().map((now, i) => now - lastInput[i]));
  const showCountdown = (seconds) => {
    const hidden = seconds === null;
    // A screen reader reads the sentence once; only the number changes every second.
    if (countdown.hidden !== hidden)
      countdown.querySelector("strong").textContent = hidden ? "" : "Still there? Touch the screen to go on.";
    countdown.hidden = hidden;
    countdown.querySelector(".seconds-left").textContent = hidden ? "" : `Everything here will be deleted in ${seconds} s`;
  };
  const onInput = () => {
    lastInput = clocks();
    if (!countdown.hidden) showCountdown(null);
  };
  for (const type of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"])
    addEventListener(type, onInput, { capture: true, passive: true });
  setInterval(() => {
    const stop = document.querySelector("#stop");
    const inUse = document.querySelector("#chat-history .message-row") || questionField()?.value ||
      document.querySelector("#chat-input .thumbnail-small") || hasOpenDialog();
    if (stop?.offsetParent || (!inUse && countdown.hidden)) return onInput();
    const secondsLeft = idleSeconds - idleMs() / 1000;
    if (secondsLeft > countdownSeconds) return;
    closeAllDialogs(); // a dialog would cover the countdown and stay for the next visitor, the camera with it
    if (secondsLeft > 0) return showCountdown(Math.ceil(secondsLeft));
    onInput();
    document.querySelector("#kiosk-reset").click();
  }, 500);
}
