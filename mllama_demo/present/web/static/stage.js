// The stage: plays a scenario step by step. When the model fails, shows the recorded answer with a label.
import "../../web/static/pictures.js"; // keeps the page when a file is dropped on it
import "../../web/static/wake_lock.js";
import { events } from "./events.js";
import { explain } from "./failures.js";
import { clockFrom, onKeys, sendOnEnter } from "./keys.js";
import { countWords, reveal } from "./reveal.js";

const page = document.body.dataset;
const at = (id) => document.getElementById(id);
const channel = new BroadcastChannel(`mllama-present-${page.name}`);
const SIGN_MS = 5000; // a model that sends nothing for this long is said to give no sign
const GIVE_UP_MS = 20000; // and without a recorded answer the page stops waiting after this time
const RECORDED_CHUNK_MS = 60;
const SMALLEST = 0.55; // the smallest font size of an answer, relative to the usual one
const CHANGED = 409; // the status for a step that was changed in the file
const FRESH = { text: "", html: "", words: Infinity, phase: "new", reading: "", quiet: 0, label: "", trouble: "", details: "", figures: "" };
const UNSCRIPTED = "Unscripted: a question from the audience";

// The id of this presentation, to which a notes window belongs. Other tabs may play the same scenario. A reload keeps the id.
function stageId() {
  const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
  const id = (reloaded && history.state) || page.run;
  history.replaceState(id, "");
  return id;
}

const id = stageId();
const base = `${page.base}${page.name}`;
let script, steps, total, pictures;
let place = 0;
let began = 0;
let asking = null;
let black = false;
let notReady = "";

const address = (step) => pictures.get(page.base + step.image) ?? page.base + step.image;

async function start() {
  script = await (await fetch(`${base}/scenario.json`)).json();
  steps = script.steps.map((step, index) => ({ ...step, ...FRESH, number: index + 1 }));
  total = steps.length;
  // URL of each image → object URL of a copy, fetched in advance because the network may fail later.
  pictures = new Map(steps.filter((step) => step.image).map((step) => [page.base + step.image, null]));
  at("rehearsed").textContent = script.sentence;
  at("rehearsed").classList.add(script.rehearsed);
  place = Math.min(Math.max(Number(location.hash.slice(1)) || 1, 1), total) - 1;
  channel.onmessage = ({ data }) => {
    if (data.kind === "hello" && [id, ""].includes(data.stage)) tell();
    if (data.kind !== "act" || data.stage !== id) return;
    data.name === "ask" ? askFromAudience(data.question, data.continues) : act(data.name);
  };
  onKeys(act);
  for (const [button, name] of [["next", "next"], ["back", "back"], ["open-notes", "notes"], ["open-question", "question"],
    ["full", "full"]]) at(button).addEventListener("click", () => act(name));
  at("black").addEventListener("click", () => act("black"));
  addEventListener("resize", () => fitAnew(at("answer")));
  prepareQuestionForm();
  setInterval(() => (at("clock").textContent = clockFrom(began)), 500);
  setInterval(health, 5000);
  health();
  preload();
  show();
}

async function preload() {
  document.body.dataset.held = "under way";
  const missing = () => [...pictures.keys()].filter((key) => !pictures.get(key));
  for (const key of missing()) {
    const answer = await fetch(key).catch(() => null);
    if (answer?.ok) pictures.set(key, URL.createObjectURL(await answer.blob()));
  }
  document.body.dataset.held = missing().length ? "not yet" : "all"; // what the page needs without a server
  show();
}

// --- what is visible -----------------------------------------------------------------------------------------------------

function show() {
  const step = steps[place];
  at("step-title").textContent = step.title;
  at("step-title").classList.toggle("unscripted", Boolean(step.unscripted));
  at("prompt").textContent = step.prompt;
  at("figure").hidden = !step.image;
  if (step.image && at("picture").getAttribute("src") !== address(step)) at("picture").src = address(step);
  at("picture").alt = step.image ? "The picture that the model sees" : "";
  showAnswer(step);
  at("recorded").hidden = !step.label;
  at("recorded").textContent = step.label;
  at("trouble").hidden = !step.trouble;
  at("trouble").textContent = step.trouble;
  at("parameters").textContent = step.parameters;
  at("figures").textContent = step.figures;
  at("place").textContent = placeText();
  at("back").disabled = place === 0;
  at("next").disabled = place === steps.length - 1 && step.phase === "done";
  document.body.dataset.phase = step.phase;
  document.body.dataset.begun = Boolean(began);
  tell();
}

const placeText = () => (steps[place].unscripted ? "unscripted" : `${steps[place].number} / ${total}`);

function showAnswer(step) {
  const box = at("answer");
  const busy = step.phase === "busy";
  box.setAttribute("aria-busy", busy);
  box.classList.toggle("writing", busy && Boolean(step.text) && !step.quiet);
  if (step.drawn !== box.drawn || step !== box.step) {
    const begins = !step.text || step !== box.step;
    reveal(box, step.text ? step.html : "", step.words);
    Object.assign(box, { step, drawn: step.drawn });
    begins ? fitAnew(box) : fit(box);
  }
  at("waiting").hidden = !busy || (Boolean(step.text) && !step.quiet);
  at("waiting").classList.toggle("quiet", step.quiet > 0);
  const words = step.quiet ? "The model gives no sign" : step.reading || "The question is on its way";
  if (at("waiting-words").textContent !== words) at("waiting-words").textContent = words;
}

// Presenter remotes cannot scroll. Reduces the font until the answer fits; at the smallest size, scrolls to the end.
function fit(box) {
  let size = Number(box.style.getPropertyValue("--fit"));
  while (box.scrollHeight > box.clientHeight + 1 && size > SMALLEST) box.style.setProperty("--fit", (size -= 0.05));
  box.scrollTop = box.scrollHeight;
}

// For another window, or another answer: the font may be larger again.
function fitAnew(box) {
  box.style.setProperty("--fit", 1);
  fit(box);
}

// Tells the notes window.
function tell() {
  const step = steps[place];
  const silence = step.quiet ? `No sign from the model for ${step.quiet} s.${step.recorded ? " p plays the recorded answer." : ""}` : "";
  const state = step.label || { new: "not asked yet", busy: "answering", done: step.trouble ? "failed" : "answered" }[step.phase];
  channel.postMessage({
    kind: "at", stage: id, place: placeText(), prompt: step.prompt, notes: step.notes, began, black, state,
    coming: steps[place + 1]?.prompt ?? "The end.",
    details: [notReady && `Not ready: ${notReady}`, silence, step.details].filter(Boolean).join("\n"),
    hasRecording: Boolean(step.recorded), mayContinue: mayContinue(step),
  });
}

function setBlack(on) {
  black = on;
  at("black").hidden = !on;
  document.body.classList.toggle("dark-screen", on);
  tell();
}

// --- asking --------------------------------------------------------------------------------------------------------------

function stop() {
  asking?.abort();
  asking = null;
}

// Changes the step and draws its answer again.
function write(step, changes) {
  Object.assign(step, changes, { drawn: (step.drawn ?? 0) + 1 });
}

function begin() {
  stop();
  began ||= Date.now();
  const mine = (asking = new AbortController());
  steps[place].asked = mine; // the latest question owns the step
  write(steps[place], { ...FRESH, phase: "busy" });
  show();
  return mine;
}

async function ask() {
  const step = steps[place];
  const mine = begin();
  const redraw = () => step === steps[place] && show();
  const route = `${base}/steps/${step.number}/${page.run}${step.unscripted ? "/question" : ""}?fingerprint=${step.fingerprint}`;
  const limit = setTimeout(() => mine.abort("limit"), step.limit_s * 1000);
  let sign = performance.now();
  let queued = false;
  const watch = setInterval(() => {
    const silent = queued ? 0 : performance.now() - sign;
    if (silent > patience(step)) return mine.abort("silence");
    const quiet = silent >= SIGN_MS ? Math.floor(silent / 1000) : 0;
    if (quiet === step.quiet) return;
    step.quiet = quiet;
    redraw();
  }, 250);
  let done = null;
  try {
    for await (const event of events(route, mine.signal, step.unscripted)) {
      sign = performance.now();
      queued = event.phase === "waiting";
      step.quiet = 0;
      const reads = step.image ? "Looking at the picture" : "Reading the question";
      step.reading = event.position ? `Number ${event.position} in line` : { reading: reads, writing: "Thinking" }[event.phase] ?? "";
      step.text += event.text;
      if (event.html) write(step, { html: event.html });
      done = event.done;
      if (done) {
        const rate = done.tokens_per_second;
        const speed = rate ? ` · ${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s` : "";
        step.figures = `${done.tokens} ${done.tokens === 1 ? "token" : "tokens"} in ${done.total_s.toFixed(done.total_s < 1 ? 2 : 1)} s${speed}`;
        step.phase = "done"; // with the figures: a question from the audience may go on from here
      }
      redraw();
    }
    if (!done) throw new Error("the connection to the server broke off.");
  } catch (error) {
    const aborted = mine.signal.aborted ? mine.signal.reason : undefined;
    if (aborted && typeof aborted !== "string") {
      // The presenter moved on: the text so far stays.
      if (step.asked === mine) Object.assign(step, { phase: step.text ? "done" : "new", figures: "", quiet: 0 });
    } else if (error.status === CHANGED) Object.assign(step, { phase: "done", trouble: error.message, quiet: 0 });
    else await fallBack(step, mine, explain(error, aborted, Boolean(step.text)), redraw);
  } finally {
    clearTimeout(limit);
    clearInterval(watch);
    if (asking === mine) asking = null;
  }
  redraw();
}

// For how long the model may send nothing. A recorded answer is shown sooner than the page gives up without one.
function patience(step) {
  if (!step.recorded) return GIVE_UP_MS;
  return step.text ? SIGN_MS : step.recorded.patience_s * 1000;
}

async function fallBack(step, mine, { words, details }, redraw) {
  step.details = details;
  step.quiet = 0;
  if (step.recorded) return playRecorded(step, mine, redraw);
  const after = step.unscripted ? "" : " A rehearsal records an answer for such a moment.";
  step.details += ` This step has no recorded answer.${after}`;
  Object.assign(step, { phase: "done", trouble: words, figures: "r asks again · → goes on · n shows why" });
}

// The label is set before the first word.
async function playRecorded(step, mine, redraw) {
  const { text, html, date, model } = step.recorded;
  write(step, { text, html, words: 0, figures: "", label: `Recorded on ${date} · ${model}` });
  for (const count = countWords(html); step.words < count; write(step, { words: step.words + 1 })) {
    if (asking !== mine) break;
    redraw();
    await new Promise((go) => setTimeout(go, RECORDED_CHUNK_MS));
  }
  if (step.asked === mine) write(step, { words: Infinity, phase: "done" });
}

async function playNow() {
  const step = steps[place];
  if (!step.recorded) {
    Object.assign(step, { details: "This step has no recorded answer." });
    return show();
  }
  const mine = begin();
  await playRecorded(step, mine, () => step === steps[place] && show());
  if (asking === mine) asking = null;
  if (step === steps[place]) show();
}

// --- questions from the audience -----------------------------------------------------------------------------------------

const mayContinue = (step) => step.phase === "done" && Boolean(step.text) && !step.trouble;

// Inserts a step after this one. It is no part of the scenario: a reload removes it.
function askFromAudience(question, continues) {
  const step = steps[place];
  const goesOn = continues && mayContinue(step);
  const before = steps.slice(0, place + 1).filter((one) => one.number === step.number && one.unscripted?.continues);
  const unscripted = { question, continues: goesOn, earlier: goesOn ? before.length : 0 };
  steps.splice(place + 1, 0, { ...FRESH, number: step.number, fingerprint: step.fingerprint, image: step.image, ...script.unscripted,
    title: UNSCRIPTED, prompt: question, notes: "", recorded: null, unscripted });
  setBlack(false);
  move(1);
  ask();
}

function prepareQuestionForm() {
  const dialog = at("question-dialog");
  sendOnEnter(at("question"));
  dialog.addEventListener("close", () => {
    const question = at("question").value.trim();
    if (dialog.returnValue === "ask" && question) askFromAudience(question, at("continues").checked);
  });
}

function openQuestionForm() {
  const step = steps[place];
  at("question").value = "";
  at("continues-row").hidden = !mayContinue(step);
  at("continues").checked = mayContinue(step);
  at("question-dialog").returnValue = "";
  at("question-dialog").showModal();
}

// --- moving --------------------------------------------------------------------------------------------------------------

function move(by) {
  const to = place + by;
  if (to < 0 || to >= steps.length) return;
  stop();
  place = to;
  history.replaceState(id, "", `#${steps[place].number}`);
  show();
}

function act(name) {
  // Any key brings the picture back, and does nothing else.
  if (black || name === "black") return setBlack(!black);
  if (name === "next") steps[place].phase === "new" ? ask() : move(1);
  if (name === "back") move(-1);
  if (name === "again") ask();
  if (name === "recorded") playNow();
  if (name === "question") openQuestionForm();
  if (name === "notes") open(`${page.name}/notes#${id}`, `notes-${id}`, "width=760,height=720");
  if (name === "full") document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
}

async function health() {
  try {
    const told = await (await fetch(`${page.base}../health`)).json();
    tellState(told.status === "ready" ? "" : told.reason || told.status);
    if (document.body.dataset.held === "not yet") preload();
  } catch {
    tellState("the server cannot be reached");
  }
}

// The audience sees whether there is a model, the presenter why there is none: before the first question, and in the notes window.
function tellState(trouble) {
  const recorded = script.steps.filter((step) => step.recorded).length;
  const some = recorded === total ? "recorded answers will be shown" : `${recorded} of ${total} answers are recorded`;
  at("state").textContent = trouble ? `Not ready; ${recorded ? some : "nothing is recorded"}` : "Ready";
  at("state").className = trouble ? "away" : "ready";
  at("reason").textContent = trouble;
  if (trouble === notReady) return;
  notReady = trouble;
  tell();
}

globalThis.mllamaKeepScreenOn();
start().catch(() => {
  at("trouble").hidden = false;
  at("trouble").textContent = "This demo could not be loaded from the server; reload the page.";
});
