// The buttons under messages and in blocks of code that copy text. Runs after chat.js, in the same scope.
const copyStatus = document.createElement("div");
copyStatus.className = "visually-hidden";
copyStatus.setAttribute("role", "status");
document.querySelector(".gradio-container").append(copyStatus);

async function copyWithSign(button, text) {
  const copied = await copyText(text);
  copyStatus.textContent = copied ? "Copied." : "The browser did not allow the page to copy.";
  button.classList.add(copied ? "copied" : "not-copied");
  setTimeout(() => {
    button.classList.remove("copied", "not-copied");
    copyStatus.textContent = "";
  }, 2000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(".copy-text, .copy-code");
  if (!button) return;
  const code = button.closest("figure.code")?.querySelector("code");
  copyWithSign(button, button.classList.contains("copy-code") ? code.textContent : button.dataset.text);
});

// Called after each change of the page. An answer that is being written gets no buttons: each update draws it again.
function addCodeButtons() {
  for (const figure of document.querySelectorAll("#messages figure.code:not(:has(> .copy-code))")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-code";
    button.title = "Copy code";
    button.setAttribute("aria-label", "Copy code");
    figure.append(button);
  }
}
