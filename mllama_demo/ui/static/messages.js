// The buttons under messages and in blocks of code that copy text, and those of the facts of an answer. Runs after chat.js, in the same scope.
const actionStatus = document.createElement("div");
actionStatus.className = "visually-hidden";
actionStatus.setAttribute("role", "status");
document.querySelector(".gradio-container").append(actionStatus);

// Shows for a moment on a button, and says to screen readers, what its click did.
function showSign(button, sign, sentence) {
  actionStatus.textContent = sentence;
  button.classList.remove("done", "not-done");
  button.classList.add(sign);
  setTimeout(() => {
    button.classList.remove(sign);
    actionStatus.textContent = "";
  }, 2000);
}

async function copyWithSign(button, text) {
  try {
    await navigator.clipboard.writeText(text); // over plain HTTP, see web/static/clipboard.js
    showSign(button, "done", "Copied.");
  } catch {
    showSign(button, "not-done", "The browser did not allow the page to copy.");
  }
}

// Sets the sampling values to those of an answer.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".use-values");
  if (!button) return;
  trigger("release", { number: Number(button.dataset.number) });
  showSign(button, "done", "The sampling values are set.");
});

document.addEventListener("click", (event) => {
  const button = event.target.closest(".copy-text, .copy-code");
  if (!button) return;
  const code = button.closest("figure.code")?.querySelector("code");
  copyWithSign(button, button.classList.contains("copy-code") ? code.textContent : button.dataset.text);
});

// Called after each change of the page. An answer that is being written gets no buttons: each update draws it again.
function completeMessages() {
  // A kiosk has no figures. Only the button that shows what the model saw is left of the facts of an answer.
  for (const facts of document.querySelectorAll("body.kiosk #messages .answer-metadata:not([open])")) facts.open = true;
  for (const figure of document.querySelectorAll("#messages figure.code:not(:has(> .copy-code))")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "icon-action copy-code";
    button.title = "Copy code";
    button.setAttribute("aria-label", "Copy code");
    figure.append(button);
  }
}
