// Asks the server every second for the state of the model. Shows within three seconds that the server or the model is lost.
const ASK_EVERY_MS = 1000;
const SILENCE_MS = 2500; // longer than a busy server takes; a refused connection is known at once
window.mllamaLastContact = Date.now();
const connectionLost = document.createElement("div");
connectionLost.className = "status down";
connectionLost.setAttribute("role", "alert");
connectionLost.innerHTML = '<span class="dot" aria-hidden="true"></span>No connection to the demo; trying again …';

function showConnection(lost) {
  const status = document.querySelector("#status");
  if (!status) return;
  status.classList.toggle("connection-lost", lost); // it may say "Ready"
  if (!lost) connectionLost.remove();
  else if (!connectionLost.isConnected) status.before(connectionLost);
}

// The status line, when the model's state is another than the one it shows. Otherwise the timer of the page updates it.
function showState(state, html) {
  const line = document.querySelector("#status .status");
  const shown = ["loading", "down"].find((name) => line?.classList.contains(name)) ?? "ready";
  if (line && shown !== state) line.outerHTML = html;
}

async function askForStatus() {
  const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(SILENCE_MS) });
  if (answer.status > 500) throw new Error(`status ${answer.status}`); // a proxy in front of a server that is gone
  window.mllamaLastContact = Date.now();
  if (!answer.ok || answer.redirected) return; // the visitor is signed out
  const { state, html } = await answer.json();
  showState(state, html);
}

async function watchConnection() {
  if (!document.hidden && location.protocol.startsWith("http")) {
    // An update of an answer is contact too: the page may hold all connections that the browser allows to one server.
    await askForStatus().then(() => showConnection(false), () => {
      if (!document.hidden) showConnection(Date.now() - window.mllamaLastContact > ASK_EVERY_MS);
    });
  }
  setTimeout(watchConnection, ASK_EVERY_MS);
}
document.addEventListener("visibilitychange", () => (window.mllamaLastContact = Date.now())); // timers sleep in the background
watchConnection();
