// Asks the server every second for the status line, and tells it how late the page draws. Shows within three seconds that the
// server or the model is lost, or that the visitor has signed out on another page.
const ASK_EVERY_MS = 1000;
const SILENCE_MS = 2500; // longer than a busy server takes; a refused connection is known at once
window.mllamaLastContact = performance.now();
function alertLine(html) {
  const line = document.createElement("div");
  line.className = "status down";
  line.setAttribute("role", "alert");
  line.innerHTML = `<span class="dot" aria-hidden="true"></span><span>${html}</span>`;
  return line;
}
const connectionLost = alertLine("No connection to the demo; trying again …");
const signedOut = alertLine("You are signed out. <a>Sign in</a>");

function showAlert(line, shown) {
  const status = document.querySelector("#status");
  if (!status) return;
  if (!shown) line.remove();
  else if (!line.isConnected) status.before(line);
  // It may say "Ready".
  status.classList.toggle("connection-lost", connectionLost.isConnected || signedOut.isConnected);
}
const showConnection = (lost) => showAlert(connectionLost, lost);

// Hides the conversations: another person may sit down there. Who signs in again may be another user, for whom the page is loaded
// anew; question_draft.js keeps what the same user has typed.
function showSignedOut(out, address) {
  if (!out && signedOut.isConnected) return location.reload();
  signedOut.querySelector("a").href = address;
  document.body.classList.toggle("signed-out", out);
  if (out) closeAllDialogs();
  showAlert(signedOut, out);
}

function showStatus(html) {
  const line = document.querySelector("#status .status");
  const template = document.createElement("template");
  template.innerHTML = html;
  if (line && !line.isEqualNode(template.content.firstElementChild)) line.outerHTML = html;
}

async function askForStatus() {
  const report = new URLSearchParams({ page: window.mllamaPageId ?? "", lag_ms: Math.round(drawLag) });
  const answer = await fetch(`status?${report}`, { cache: "no-store", signal: AbortSignal.timeout(SILENCE_MS) });
  if (answer.status > 500) throw new Error(`status ${answer.status}`); // a proxy in front of a server that is gone
  window.mllamaLastContact = performance.now();
  // Redirected: a proxy in front of the demo has a sign-in of its own.
  const login = answer.redirected ? location.href : `login?next=${encodeURIComponent("/" + location.search)}`;
  showSignedOut(answer.status === 401 || answer.redirected, login);
  if (!answer.ok || answer.redirected) return;
  showStatus((await answer.json()).html);
}

async function watchConnection() {
  if (!document.hidden && location.protocol.startsWith("http")) {
    // An update of an answer is contact too: the page may hold all connections that the browser allows to one server.
    await askForStatus().then(() => showConnection(false), () => {
      if (!document.hidden) showConnection(performance.now() - window.mllamaLastContact > ASK_EVERY_MS);
    });
  }
  setTimeout(watchConnection, ASK_EVERY_MS);
}
document.addEventListener("visibilitychange", () => (window.mllamaLastContact = performance.now())); // timers sleep in the background
watchConnection();
