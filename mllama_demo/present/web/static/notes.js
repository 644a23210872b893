// The notes window: what the presenter reads, and the keys of the stage. A window that was opened by hand follows the first stage
// that answers.
import "../../web/static/pictures.js"; // keeps the page when a file is dropped on it
import { clockFrom, onKeys, sendOnEnter } from "./keys.js";

const page = document.body.dataset;
const at = (id) => document.getElementById(id);
const channel = new BroadcastChannel(`mllama-present-${page.name}`);
const HERE = ["next", "back", "again", "recorded", "black"];
let stage = location.hash.slice(1);
let began = 0;

channel.onmessage = ({ data }) => {
  if (data.kind !== "at" || (stage && data.stage !== stage)) return;
  stage = data.stage;
  began = data.began;
  at("place").textContent = data.place;
  at("prompt").textContent = data.prompt;
  at("notes").textContent = data.notes || "No notes for this step.";
  at("coming").textContent = data.coming;
  at("state").textContent = data.state;
  at("details").hidden = !data.details;
  at("details").textContent = data.details;
  at("recorded").disabled = !data.hasRecording;
  at("black").setAttribute("aria-pressed", data.black);
  at("continues").disabled = !data.mayContinue;
  at("continues").closest("label").classList.toggle("unavailable", !data.mayContinue);
};

const send = (name, more) => channel.postMessage({ kind: "act", stage, name, ...more });
onKeys((name) => {
  if (HERE.includes(name)) send(name);
  if (name === "question") at("question").focus();
});
for (const name of HERE) at(name).addEventListener("click", () => send(name));
sendOnEnter(at("question"));
at("question-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question) return;
  send("ask", { question, continues: at("continues").checked && !at("continues").disabled });
  at("question").value = "";
  at("question").blur();
});
at("question").addEventListener("keydown", (event) => event.key === "Escape" && at("question").blur());
setInterval(() => (at("clock").textContent = clockFrom(began)), 500);
channel.postMessage({ kind: "hello", stage });
