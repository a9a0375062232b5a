"use strict";

// What the other parts are made of. Everything shown passes through `el` and `svg`: a text becomes a text node, never
// markup, and no attribute is set that could hold code.

const SVG = "http://www.w3.org/2000/svg";
const NONE = "–";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);
const by = (id) => document.getElementById(id);

// A name that somebody else chose: set apart, so that letters written from right to left do not turn the line round.
const data = (text) => el("span", { class: "data" }, String(text));

// Puts children in the place of others. Whoever is reading keeps the open details and the focus: both are found again
// by `data-key`. Nothing is touched when `value`, what the children are made from, is the one of the last time.
const shown = new WeakMap();
function show(box, value, make) {
  const text = JSON.stringify(value);
  if (shown.get(box) === text) return;
  shown.set(box, text);
  const open = new Set([...box.querySelectorAll("details[open]")].map((each) => each.dataset.key));
  const focus = box.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
  box.replaceChildren(...make());
  for (const each of box.querySelectorAll("details")) each.open ||= open.has(each.dataset.key);
  for (const each of box.querySelectorAll("[data-key]")) {
    if (focus && each.dataset.key === focus) (each.querySelector("summary") ?? each).focus();
  }
}

function note(id, text) {
  const box = by(id);
  if (box.textContent !== text) box.textContent = text;
  box.hidden = !text;
}

// Numbers -------------------------------------------------------------------------------------------------------------

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const count = (value) => (isNumber(value) ? value.toLocaleString("en") : NONE);
const round = (value, digits) => String(Number(value.toFixed(digits)));
const money = (value) => (isNumber(value) ? `$${value.toFixed(value > 0 && value < 1 ? 4 : 2)}` : NONE);

function millis(value) {
  if (!isNumber(value)) return NONE;
  return value < 1000 ? `${round(value, value < 10 ? 1 : 0)} ms` : `${round(value / 1000, 2)} s`;
}

// 99.996 is not 100: what is not whole is never rounded up to it.
function percent(value) {
  if (!isNumber(value)) return NONE;
  const text = round(value, Math.abs(value) < 10 || value > 99 ? 2 : 1);
  return `${text === "100" && value < 100 ? "> 99.99" : text} %`;
}

function span(seconds) {
  if (!isNumber(seconds)) return NONE;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.round(whole / 60)} min`;
  const [unit, below, large, small] = whole < 86400 ? [3600, 60, "h", "min"] : [86400, 3600, "d", "h"];
  const rest = Math.floor((whole % unit) / below);
  return `${Math.floor(whole / unit)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

// Times: unix seconds, or ISO 8601. `moment` is null for what is neither.
function moment(value) {
  const date = isNumber(value) ? new Date(value * 1000) : typeof value === "string" ? new Date(value) : null;
  return date && !Number.isNaN(date.getTime()) ? date : null;
}

const two = (value) => String(value).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const hours = (date) => [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
const isToday = (date) => date.toDateString() === new Date().toDateString();

function clock(date) {
  return isToday(date) ? hours(date) : `${date.getDate()} ${MONTHS[date.getMonth()]} ${hours(date).slice(0, 5)}`;
}

function when(value) {
  const date = moment(value);
  return date ? el("time", { datetime: date.toISOString(), title: date.toISOString() }, clock(date)) : NONE;
}

// States --------------------------------------------------------------------------------------------------------------

const LEVELS = {
  healthy: "good",
  operational: "good",
  available: "good",
  closed: "good",
  ok: "good",
  resolved: "good",
  degraded: "warn",
  half_open: "warn",
  medium: "warn",
  low: "warn",
  maintenance: "warn",
  unknown: "",
  down: "bad",
  unavailable: "bad",
  open: "bad",
  high: "bad",
  critical: "bad",
};
const level = (word) => LEVELS[word] ?? "";
const plain = (word) => String(word ?? "").replaceAll("_", " ");
const state = (word) => el("span", { class: `state ${level(word)}` }, plain(word));

// Asking --------------------------------------------------------------------------------------------------------------

const ASK_MS = 10000;

// The JSON at a path, beside the page (so it also works behind a prefix). Raises an Error with words for the reader;
// its `status` is that of the answer, 0 where there was none.
async function ask(path) {
  let answer;
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(ASK_MS), cache: "no-store" });
  } catch (error) {
    const words = error.name === "TimeoutError" ? `no answer within ${ASK_MS / 1000} s` : "no connection";
    throw Object.assign(new Error(words), { status: 0 });
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body !== null) return body;
  const said = body?.detail ?? body?.error?.message ?? (answer.ok ? "the answer is not JSON" : answer.statusText);
  throw Object.assign(new Error(`${said} (${answer.status})`), { status: answer.status });
}
