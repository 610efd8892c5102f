"use strict";

const content = JSON.parse(document.getElementById("content").textContent);
const COLUMNS = ["study", "rater", "question", "answer", "confidence", "similarity", "seconds"];
const SETS = "ABC";
const KEPT = `semlens-study-${content.id}`;
const $ = (id) => document.getElementById(id);

// answers: one object per question, by the names of its fields, with the seconds spent on it
let state = { rater: "", at: 0, answers: content.questions.map(() => ({ seconds: 0 })) };
let since = performance.now();

/** Make an element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(state));
  } catch {
    // a browser that stores nothing: the answers last until the page is closed
  }
}

function restore() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT));
    if (kept?.answers?.length === content.questions.length) state = kept;
  } catch {
    // nothing kept, or not readable
  }
}

/** Show one of the three parts of the page, and put the focus on its heading. */
function show(part) {
  for (const main of document.querySelectorAll("main[id]")) main.hidden = main.id !== part;
  scrollTo(0, 0);
  document.querySelector(`#${part} h1`).focus();
}

function radio(name, value, label) {
  const checked = state.answers[state.at][name] === value;
  return make("input", { type: "radio", name, value, checked, ariaLabel: label });
}

/** A set of images; one that can be chosen if there are several. */
function drawSet(pictures, index, several) {
  const images = make("span", { className: "images" });
  for (const picture of pictures) {
    images.append(make("img", { src: content.pictures[picture], alt: "", draggable: false }));
  }
  if (!several) return make("div", { className: "set only" }, images);
  const name = SETS[index];
  const letter = make("span", { className: "name", textContent: name });
  return make("label", { className: "set" }, radio("answer", name, `Set ${name}`), letter, images);
}

function drawChoices(choices) {
  const pills = make("div", { className: "pills" });
  for (const [value, text] of choices) {
    pills.append(make("label", { className: "pill" }, radio("answer", value, text), text));
  }
  return pills;
}

function drawScale(scale, prompt) {
  const pills = make("div", { className: "pills" });
  content.points.forEach((point, index) => {
    const end = { 0: `, ${scale.low}`, [content.points.length - 1]: `, ${scale.high}` }[index] ?? "";
    const label = `${index + 1} of ${content.points.length}${end}`;
    const number = String(index + 1);
    pills.append(make("label", { className: "pill" }, radio(scale.name, String(point), label), number));
  });
  const ends = make("div", { className: "ends", ariaHidden: "true" });
  ends.append(make("span", { textContent: scale.low }), make("span", { textContent: scale.high }));
  const legend = make("legend", { textContent: scale.prompt, hidden: !scale.prompt });
  return make("fieldset", { ariaLabel: scale.prompt || prompt }, legend, pills, ends);
}

function fields(at) {
  const task = content.tasks[content.questions[at].task];
  const names = task.scales.map((scale) => scale.name);
  return task.sets || task.choices.length ? ["answer", ...names] : names;
}

const complete = (at) => fields(at).every((name) => state.answers[at][name] !== undefined);

function ask() {
  const { at } = state;
  const asked = content.questions[at];
  const task = content.tasks[asked.task];
  $("count").textContent = `Question ${at + 1} of ${content.questions.length}`;
  Object.assign($("progress"), { max: content.questions.length, value: at });
  $("prompt").textContent = task.prompt;
  const sets = asked.sets.map((pictures, index) => drawSet(pictures, index, task.sets));
  const group = make("fieldset", { className: "sets", ariaLabel: task.prompt }, ...sets);
  $("sets").replaceChildren(group);
  $("choices").replaceChildren(...(task.choices.length ? [drawChoices(task.choices)] : []));
  $("scales").replaceChildren(...task.scales.map((scale) => drawScale(scale, task.prompt)));
  $("back").disabled = at === 0;
  $("next").textContent = at + 1 === content.questions.length ? "Finish" : "Next";
  $("next").disabled = !complete(at);
  $("keys").textContent = `Keys: ${keyNames(task).join(" ")} to choose, Enter for the next question`;
  since = performance.now();
  show("ask");
}

/** The keys that choose an answer: letters of sets, else numbers. */
function keyNames(task) {
  if (task.sets) return [...SETS].slice(0, content.questions[state.at].sets.length);
  const count = task.choices.length || content.points.length;
  return Array.from({ length: count }, (_, index) => String(index + 1));
}

function move(to) {
  state.answers[state.at].seconds += (performance.now() - since) / 1000;
  state.at = to;
  keep();
  if (to < content.questions.length) ask();
  else finish();
}

function csv() {
  const cell = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const rows = state.answers.map((answer, index) => {
    const seconds = answer.seconds.toFixed(1);
    const row = { ...answer, study: content.id, rater: state.rater, question: String(index + 1), seconds };
    return COLUMNS.map((name) => cell(row[name] ?? "")).join(",");
  });
  return `${[COLUMNS.join(","), ...rows].join("\n")}\n`;
}

function finish() {
  const missing = content.questions.findIndex((_, at) => !complete(at));
  if (missing >= 0) {
    state.at = missing;
    return ask();
  }
  $("text").value = csv();
  $("said").textContent = "";
  show("end");
}

function download() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  const rater = state.rater.replaceAll(/[^\w.-]+/g, "_");
  make("a", { href: url, download: `answers-${content.id}-${rater}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  $("said").textContent = "The file is among your downloads.";
}

async function copy() {
  const text = $("text");
  try {
    await navigator.clipboard.writeText(text.value);
    $("said").textContent = "The answers are on the clipboard.";
  } catch {
    // without permission, or in an old browser
    document.querySelector("details").open = true;
    text.select();
    $("said").textContent = "The answers are selected below: copy them.";
  }
}

$("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  state.rater = $("rater").value.trim();
  if (!state.rater) return;
  keep();
  ask();
});
$("question").addEventListener("change", ({ target }) => {
  state.answers[state.at][target.name] = target.value;
  $("next").disabled = !complete(state.at);
  keep();
});
$("question").addEventListener("submit", (event) => {
  event.preventDefault();
  if (complete(state.at)) move(state.at + 1);
});
$("back").addEventListener("click", () => move(state.at - 1));
$("download").addEventListener("click", download);
$("copy").addEventListener("click", copy);
$("review").addEventListener("click", () => {
  state.at = content.questions.length - 1;
  ask();
});
$("again").addEventListener("click", () => {
  if (!confirm("Clear all answers on this computer? Download them first.")) return;
  localStorage.removeItem(KEPT);
  location.reload();
});
document.addEventListener("keydown", (event) => {
  if ($("ask").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = keyNames(content.tasks[content.questions[state.at].task]);
  const index = keys.indexOf(event.key.toUpperCase());
  if (index >= 0) {
    // sets or choices come before the scales
    const chosen = document.querySelectorAll("#question input[type=radio]")[index];
    chosen.focus(); // so that Tab leads on to the scales
    chosen.click();
  } else if (event.key === "Enter" && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    $("question").requestSubmit();
  }
});

restore();
$("rater").value = state.rater || new URLSearchParams(location.search).get("rater") || "";
if (state.rater && state.at < content.questions.length) ask();
else if (state.rater) finish();
else show("start");
