// What the stage says to an audience when there is no live answer. The true cause is for the presenter, in the notes window.
const WORDS = {
  silence: "The model gives no sign.",
  limit: "The answer takes too long.",
  connection: "The connection to the model is lost.",
  400: "The model cannot take this question.",
  413: "The model cannot take this question.",
  429: "The model is busy with other questions.",
  503: "The model cannot be reached right now.",
  504: "The answer takes too long.",
};
const DETAILS = { silence: "The model gave no sign in time.", limit: "The answer took longer than this step may take." };

// Returns the words for the audience and the details for the presenter.
// error: what the request threw; aborted: the reason when the page gave up, else undefined.
export function explain(error, aborted, begun) {
  const kind = aborted ?? error.status ?? "connection";
  return {
    words: begun ? "The answer broke off." : WORDS[kind] ?? "The model failed on this question.",
    details: DETAILS[aborted] ?? error.cause ?? error.message,
  };
}
