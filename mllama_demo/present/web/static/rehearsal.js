// The rehearsal page: the server asks all steps, and the page shows the result of each.
import "../../web/static/pictures.js"; // keeps the page when a file is dropped on it
import { events } from "./events.js";

const at = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("#steps > li")];
let running = null; // the AbortController of the rehearsal under way

function show(row, state, verdict) {
  row.dataset.state = state;
  row.querySelector(".verdict").textContent = verdict;
}

function result(row, told) {
  show(row, told.problems.length ? "failed" : "good", told.problems.length ? "Not as expected" : "As expected");
  row.querySelector(".answer").innerHTML = told.html; // of mllama_demo/chat/rendering.py, which is safe
  const problems = row.querySelector(".problems");
  problems.hidden = !told.problems.length;
  problems.textContent = told.problems.join("; ");
  const first = told.ttft_s === null ? "no first token" : `first token ${told.ttft_s.toFixed(2)} s`;
  const speed = told.tokens_per_second ? ` · ${told.tokens_per_second.toFixed(0)} tokens/s` : "";
  const tokens = `${told.tokens} ${told.tokens === 1 ? "token" : "tokens"}`;
  row.querySelector(".figures").textContent = `${first} · whole answer ${told.total_s.toFixed(2)} s · ${tokens}${speed}`;
}

function setRunning(isRunning) {
  at("start").hidden = isRunning;
  at("stop").hidden = !isRunning;
  at("progress").hidden = !isRunning;
  at(isRunning ? "stop" : "start").focus({ preventScroll: true });
}

async function rehearse() {
  const mine = (running = new AbortController());
  setRunning(true);
  at("progress").value = 0;
  at("said").className = "";
  for (const row of rows) {
    show(row, "new", "");
    for (const part of [".answer", ".problems", ".figures"]) row.querySelector(part).textContent = "";
    row.querySelector(".problems").hidden = true;
  }
  const ask = (index) => {
    at("said").textContent = index < rows.length ? `Step ${index + 1} of ${rows.length} …` : "Recording …";
    if (rows[index]) show(rows[index], "busy", "Asking …");
  };
  try {
    let end = null;
    for await (const event of events(location.pathname, mine.signal)) {
      if (event.steps) {
        // The file may have been changed since the page was opened.
        if (event.steps.join() !== rows.map((row) => row.dataset.fingerprint).join()) throw new Error("the scenario was changed meanwhile; reload this page.");
        ask(0);
      } else if (event.step) {
        result(rows[event.step - 1], event);
        at("progress").value = event.step;
        ask(event.step);
      } else end = event;
    }
    if (!end) throw new Error("the connection to the server broke off.");
    at("said").textContent = end.sentence;
    at("said").className = `rehearsed ${end.state}`;
  } catch (error) {
    for (const row of rows) if (["busy", "new"].includes(row.dataset.state)) show(row, "new", "Not asked");
    at("said").className = "rehearsed failed";
    at("said").textContent = `${mine.signal.aborted ? "Stopped" : `Stopped: ${error.message}`} Nothing was recorded; an earlier recording stays.`
      .replace(/^Stopped Nothing/, "Stopped. Nothing");
  }
  mine.abort(); // closes the connection, also after an exception in this script
  running = null;
  setRunning(false);
}

at("start").addEventListener("click", rehearse);
at("stop").addEventListener("click", () => running?.abort());
addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
