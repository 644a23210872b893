// Plays a scenario step by step. When the model fails, shows the recorded answer with a label.
import { events } from "./events.js";

const page = document.body.dataset;
const at = (id) => document.getElementById(id);
const channel = new BroadcastChannel(`mllama-present-${page.name}`);
const SILENCE_MS = 20000; // the page stops waiting for an answer when nothing arrives for this long
const RECORDED_CHUNK_MS = 60;
const SMALLEST = 0.55; // the smallest font size of an answer, relative to the usual one
const CHANGED = 409; // the status for a step that was changed in the file
const WAITED = { silence: "the model gave no sign in time.", limit: "the answer took longer than this step may take." };

function clockFrom(since) {
  const seconds = since ? Math.floor((Date.now() - since) / 1000) : 0;
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function keys(act) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const name = { ArrowRight: "next", PageDown: "next", " ": "next", ArrowLeft: "back", PageUp: "back",
      n: "notes", f: "full", r: "again" }[event.key];
    if (event.repeat && (name || event.key === "Enter")) return event.preventDefault(); // ignores the repetitions of a held key
    if (!name || (event.key === " " && event.target.closest("button, a"))) return;
    event.preventDefault();
    act(name);
  });
}

// The id of this presentation, to which a notes window belongs. Other tabs may play the same scenario. A reload keeps the id.
function stageId() {
  const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
  const id = (reloaded && history.state) || page.run;
  history.replaceState(id, "");
  return id;
}

async function stage() {
  const id = stageId();
  const base = `${page.base}${page.name}`;
  const script = await (await fetch(`${base}/scenario.json`)).json();
  const steps = script.steps.map((step) => ({ ...step, text: "", phase: "new", label: "", trouble: "", figures: "" }));
  const recorded = steps.filter((step) => step.recorded).length;
  // URL of each image → object URL of a copy, fetched in advance because the network may fail later.
  const pictures = new Map(steps.filter((step) => step.image).map((step) => [page.base + step.image, null]));
  const address = (step) => pictures.get(page.base + step.image) ?? page.base + step.image;
  const missing = () => [...pictures.keys()].filter((key) => !pictures.get(key));
  async function preload() {
    document.body.dataset.held = "under way";
    for (const key of missing()) {
      const answer = await fetch(key).catch(() => null);
      if (answer?.ok) pictures.set(key, URL.createObjectURL(await answer.blob()));
    }
    document.body.dataset.held = missing().length ? "not yet" : "all"; // what the page needs without a server
    show();
  }
  at("rehearsed").textContent = script.sentence;
  at("rehearsed").classList.add(script.rehearsed);
  let place = Math.min(Math.max(Number(location.hash.slice(1)) || 1, 1), steps.length) - 1;
  let began = 0;
  let asking = null;

  function show() {
    const step = steps[place];
    at("step-title").textContent = step.title;
    at("prompt").textContent = step.prompt;
    at("figure").hidden = !step.image;
    if (step.image && at("picture").getAttribute("src") !== address(step)) at("picture").src = address(step);
    at("picture").alt = step.image ? "The picture that the model sees" : "";
    at("answer").textContent = step.text;
    at("answer").classList.toggle("writing", step.phase === "busy");
    at("answer").setAttribute("aria-busy", step.phase === "busy");
    at("recorded").hidden = !step.label;
    at("recorded").textContent = step.label;
    at("trouble").hidden = !step.trouble;
    at("trouble").textContent = step.trouble;
    at("parameters").textContent = step.parameters;
    at("figures").textContent = step.figures;
    fit(step.text);
    at("place").textContent = `${place + 1} / ${steps.length}`;
    at("back").disabled = place === 0;
    at("next").disabled = place === steps.length - 1 && step.phase === "done";
    document.body.dataset.phase = step.phase;
    document.body.dataset.begun = Boolean(began);
    tell();
  }

  // Presenter remotes cannot scroll. Reduces the font until the answer fits; at the smallest size, scrolls to the end.
  let fitted = "";
  function fit(text) {
    const box = at("answer");
    if (!text || !text.startsWith(fitted)) box.style.setProperty("--fit", 1);
    fitted = text;
    let size = Number(box.style.getPropertyValue("--fit"));
    while (box.scrollHeight > box.clientHeight + 1 && size > SMALLEST) box.style.setProperty("--fit", (size -= 0.05));
    box.scrollTop = box.scrollHeight;
  }

  function tell() {
    const step = steps[place];
    channel.postMessage({ kind: "at", stage: id, place, total: steps.length, prompt: step.prompt, notes: step.notes, began,
      coming: steps[place + 1]?.prompt ?? "The end.", state: step.label || { new: "not asked yet", busy: "answering" }[step.phase] || "" });
  }

  function stop() {
    asking?.abort();
    asking = null;
  }

  async function ask() {
    stop();
    began ||= Date.now();
    const mine = (asking = new AbortController());
    const index = place;
    const step = steps[index];
    step.asked = mine; // the latest question owns the step
    Object.assign(step, { text: "", phase: "busy", label: "", trouble: "", figures: "" });
    show();
    const limit = setTimeout(() => mine.abort("limit"), step.limit_s * 1000);
    let patience;
    const wait = () => {
      clearTimeout(patience);
      patience = setTimeout(() => mine.abort("silence"), SILENCE_MS);
    };
    const redraw = () => index === place && show();
    let done = null;
    try {
      wait();
      for await (const event of events(`${base}/steps/${index + 1}/${page.run}?fingerprint=${step.fingerprint}`, mine.signal)) {
        if (event.phase !== "waiting") wait();
        step.text += event.text;
        step.figures = event.position ? `number ${event.position} in line` : "";
        done = event.done;
        if (done) {
          const speed = done.tokens_per_second ? ` · ${done.tokens_per_second.toFixed(0)} tokens/s` : "";
          step.figures = `${done.tokens} tokens in ${done.total_s.toFixed(1)} s${speed}`;
        }
        redraw();
      }
      if (!done) throw new Error("the connection to the server broke off.");
      step.phase = "done";
    } catch (error) {
      const why = mine.signal.aborted ? WAITED[mine.signal.reason] : error.message;
      if (why && error.status === CHANGED) Object.assign(step, { phase: "done", trouble: why });
      else if (why) await fallBack(step, mine, why, redraw);
      // The presenter moved on: the text so far stays.
      else if (step.asked === mine) Object.assign(step, { phase: step.text ? "done" : "new", figures: "" });
    } finally {
      clearTimeout(limit);
      clearTimeout(patience);
      if (asking === mine) asking = null;
    }
    redraw();
  }

  // Shows the recorded answer. The label is set before the first word.
  async function fallBack(step, mine, why, redraw) {
    if (!step.recorded) {
      step.figures = "";
      step.phase = "done";
      step.trouble = `${step.text ? "The answer broke off" : "No live answer"}: ${why} This step has no recorded answer. ` +
        "Press r to ask again or → to go on; a rehearsal records one.";
      return;
    }
    const { text, date, model } = step.recorded;
    step.text = "";
    step.figures = "";
    step.label = `Recorded on ${date} · ${model}`;
    console.info(`Recorded answer, since the live one failed: ${why}`);
    for (const word of text.match(/\S+\s*/g) ?? []) {
      if (asking !== mine) break;
      step.text += word;
      redraw();
      await new Promise((go) => setTimeout(go, RECORDED_CHUNK_MS));
    }
    if (step.asked !== mine) return;
    step.text = text;
    step.phase = "done";
  }

  function move(by) {
    const to = place + by;
    if (to < 0 || to >= steps.length) return;
    stop();
    place = to;
    history.replaceState(id, "", `#${place + 1}`);
    show();
  }

  function act(name) {
    if (name === "next") steps[place].phase === "new" ? ask() : move(1);
    if (name === "back") move(-1);
    if (name === "again") ask();
    if (name === "notes") open(`${page.name}/notes#${id}`, `notes-${id}`, "width=720,height=560");
    if (name === "full") document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
  }

  async function health() {
    try {
      const told = await (await fetch(`${page.base}../health`)).json();
      tellState(told.status === "ready" ? "" : told.reason);
      if (document.body.dataset.held === "not yet") preload();
    } catch {
      tellState("the server cannot be reached");
    }
  }

  function tellState(trouble) {
    const some = recorded === steps.length ? "recorded answers" : `${recorded} of ${steps.length} answers are recorded`;
    const instead = recorded ? `; ${some}${recorded === steps.length ? " will be shown" : ""}` : "; nothing is recorded";
    at("state").textContent = trouble ? `Not ready: ${trouble}${instead}` : "Ready";
    at("state").className = trouble ? "away" : "ready";
  }

  channel.onmessage = ({ data }) => {
    if (data.kind === "hello" && [id, ""].includes(data.stage)) tell();
    if (data.kind === "act" && data.stage === id) act(data.name);
  };
  keys(act);
  for (const [id, name] of [["next", "next"], ["back", "back"], ["open-notes", "notes"], ["full", "full"]]) {
    at(id).addEventListener("click", () => act(name));
  }
  setInterval(() => (at("clock").textContent = clockFrom(began)), 500);
  setInterval(health, 5000);
  health();
  preload();
  show();
}

// A notes window that was opened by hand follows the first presentation that answers.
function notes() {
  let stage = location.hash.slice(1);
  let began = 0;
  channel.onmessage = ({ data }) => {
    if (data.kind !== "at" || (stage && data.stage !== stage)) return;
    stage = data.stage;
    began = data.began;
    at("place").textContent = `${data.place + 1} / ${data.total}`;
    at("prompt").textContent = data.prompt;
    at("notes").textContent = data.notes || "No notes for this step.";
    at("coming").textContent = data.coming;
    at("state").textContent = data.state;
  };
  const send = (name) => channel.postMessage({ kind: "act", stage, name });
  keys((name) => ["next", "back", "again"].includes(name) && send(name));
  at("next").addEventListener("click", () => send("next"));
  at("back").addEventListener("click", () => send("back"));
  setInterval(() => (at("clock").textContent = clockFrom(began)), 500);
  channel.postMessage({ kind: "hello", stage });
}

function unopened() {
  at("trouble").hidden = false;
  at("trouble").textContent = "This demo could not be loaded from the server; reload the page.";
}

page.view === "notes" ? notes() : stage().catch(unopened);
