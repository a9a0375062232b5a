// The attempts of one request, as a waterfall.

const ATTEMPT_WORDS = { good: "answered", warn: "cancelled", bad: "failed" };

// `told` is the answer of /v1/explain/{id}.
function waterfall(told) {
  const request = told.request ?? {};
  const lanes = (told.attempts ?? []).map((each) => ({
    level: each.won ? "good" : /^(cancelled|ok)/.test(each.outcome) ? "warn" : "bad",
    start: each.start_ms ?? 0,
    end: each.end_ms ?? each.start_ms ?? 0,
    first: isNumber(each.first_content_ms) ? each.first_content_ms : null,
    told: each,
  }));
  const total = Math.max(request.latency_ms ?? 0, ...lanes.map((lane) => lane.end));
  const rows = lanes.map((each, index) => fallRow(each, index, total));
  const head = ["Attempt", "Outcome", `From 0 to ${millis(total)}`, "Took"];
  const number = `${lanes.length} ${lanes.length === 1 ? "attempt" : "attempts"}`;
  const about = [
    facts([
      ["Request", el("code", { class: "data" }, String(told.request_id ?? ""))],
      ["Time", when(request.at)],
      ["Route", request.route ? data(request.route) : null],
      ["Ended", request.detail?.result ? plain(request.detail.result) : null],
      ["Answered by", request.detail?.served_by ? data(request.detail.served_by) : null],
      ["Error", request.error ? data(outcome(request.error)) : null],
      ["Cost", isNumber(request.cost_usd) ? money(request.cost_usd) : null],
    ]),
  ];
  if (!lanes.length) return [...about, el("p", { class: "quiet" }, "No provider was called for it.")];
  return [
    ...about,
    el(
      "table",
      { class: "falls" },
      el("caption", {}, `${number}, ${millis(request.latency_ms)} in all. The mark in a bar is its first content.`),
      el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows),
    ),
  ];
}

function fallRow(each, index, total) {
  const { told } = each;
  const first = each.first === null ? "" : `, first content after ${millis(each.first)}`;
  const status = told.status ? ` (${told.status})` : "";
  const words = `${ATTEMPT_WORDS[each.level]}, from ${millis(each.start)} to ${millis(each.end)}${first}`;
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, `${index + 1}. ${plain(told.kind)} `, el("br"), data(target(told))),
    el(
      "td",
      {},
      el("span", { class: `state ${each.level}` }, outcome(told.outcome) + status),
      told.message ? el("div", { class: "quiet data" }, told.message) : null,
    ),
    el("td", { class: "fall" }, el("span", { class: "unseen" }, words), lane(each, total)),
    el("td", { class: "number" }, millis(each.end - each.start)),
  );
}
