// What is now: the box that tells of trouble, and a card for every provider.

const isIll = (each) => !["good", ""].includes(level(each.status));

// Of many providers only the first are shown in full, the others as lines in a box that can be opened.
const FULL_MAX = 12;
const BANNER_MAX = 6;

// What does not go its usual way, in one box: who answers instead, and for each provider that is not healthy since when
// and why. Nothing while all is well.
function banner(told) {
  const providers = (told.providers ?? []).filter(isIll);
  const routes = (told.routes ?? []).filter(isIll);
  if (!providers.length && !routes.length) return [];
  const isDown = routes.some((each) => !each.serving);
  const heads = routes.length ? routes.map((each) => headline(each, providers)) : [["No route is affected."]];
  return [
    el(
      "div",
      { class: `banner ${isDown ? "bad" : "warn"}` },
      ...few(heads, "routes").map((words) => el("p", {}, ...words)),
      el("ul", {}, ...few(providers.map(since), "providers").map((words) => el("li", {}, ...words))),
    ),
  ];
}

// The banner is read out as a whole: what happens to three hundred at once is told of some, and counted.
const few = (list, what) =>
  list.length > BANNER_MAX
    ? [...list.slice(0, BANNER_MAX), [`… and ${count(list.length - BANNER_MAX)} more ${what}.`]]
    : list;

function headline(route, ill) {
  const name = el("strong", {}, data(route.name));
  if (!route.serving) return [el("strong", {}, "No provider answers"), " for the route ", name, "."];
  const who = el("strong", {}, data(route.serving));
  const itself = ill.find((each) => each.name === route.serving);
  if (itself) return [who, `, which is ${plain(itself.status)}, answers for the route `, name, "."];
  return [el("strong", {}, "A fallback is in use: "), who, " answers for the route ", name, "."];
}

function since(provider) {
  const from = moment(provider.since) ?? moment(provider.circuit?.opened_at);
  const why = provider.reason || provider.circuit?.reason;
  return [
    el("strong", {}, data(provider.name)),
    ` is ${plain(provider.status)}`,
    from ? " since " : "",
    from ? when(from.getTime() / 1000) : "",
    why ? ": " : "",
    why ? data(outcome(why)) : "",
    provider.maintenance ? " (announced maintenance)" : "",
  ];
}

// All of a few in the order of the file. Of many, those that somebody may want to look at come first: ill ones, those
// with an open circuit, those that are called.
function providerCards(list, pointsOf, now) {
  const rank = (each) =>
    level(each.status) === "bad" ? 0 : isIll(each) ? 1 : isIll({ status: each.circuit?.state }) ? 2 : each.requests ? 3 : 4;
  const ordered = list.length > FULL_MAX ? [...list].sort((a, b) => rank(a) - rank(b)) : list;
  const cards = ordered.slice(0, FULL_MAX).map((each) => providerCard(each, pointsOf(each.name), now));
  const rest = ordered.slice(FULL_MAX);
  return rest.length ? [...cards, restOf(rest)] : cards;
}

function restOf(list) {
  const ill = list.filter(isIll).length;
  const rows = list.map((each) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, data(each.name)),
      el("td", {}, state(each.status ?? "unknown")),
      el("td", { class: "number" }, millis(each.avg_response_time_ms)),
      el("td", { class: "number" }, percent(rate(each.success_rate))),
    ),
  );
  const head = ["Provider", "State", "Time", "Success"].map((name, index) =>
    el("th", { scope: "col", class: index > 1 ? "number" : null }, name),
  );
  return el(
    "li",
    { class: "rest" },
    el(
      "details",
      { "data-key": "rest" },
      el("summary", {}, `${count(list.length)} more, ${ill ? `${count(ill)} of them not healthy` : "all healthy"}`),
      el("div", {}, el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows))),
    ),
  );
}

const SPARK_S = 1800;
const SPARK_MIN_S = 60;

// `points`: (unix seconds, latency in ms, success in percent) of what this page has seen.
function providerCard(provider, points, now) {
  const latency = points.map(([at, value]) => [at, value]);
  const success = points.map(([at, , value]) => [at, value]);
  const seconds = Math.max(SPARK_MIN_S, points.length ? now - points[0][0] : 0);
  const seen = span(seconds);
  return el(
    "li",
    { class: `card ${level(provider.status)}` },
    el("div", { class: "line" }, el("h3", {}, data(provider.name)), state(provider.status ?? "unknown")),
    spark("Response time", millis(provider.avg_response_time_ms), seen, latency, {
      seconds,
      now,
      floor: 0,
      ceiling: 100,
    }),
    spark("Success", percent(rate(provider.success_rate)), seen, success, {
      seconds,
      now,
      floor: 0,
      ceiling: 100,
      isLow: rate(provider.success_rate) < 95,
    }),
    facts(providerFacts(provider)),
    models(provider),
  );
}

// Rates are fractions on the wire.
const rate = (value) => (isNumber(value) ? value * 100 : null);

function spark(name, value, seen, points, options) {
  const values = points.map(([, each]) => each).filter(isNumber);
  const unit = name === "Success" ? percent : millis;
  const range = values.length ? `, between ${unit(Math.min(...values))} and ${unit(Math.max(...values))}` : "";
  const label = `${name} over the last ${seen}: now ${value}${range}`;
  return el(
    "figure",
    { class: "spark" },
    el("figcaption", {}, name, el("b", {}, value)),
    sparkline(points, { label, ...options }),
  );
}

function providerFacts(provider) {
  const { circuit = {}, latency_ms: latency = {}, rate_limit: limit } = provider;
  const errors = Object.entries(provider.errors ?? {}).map(([name, times]) => `${plain(name)} ${count(times)}`);
  const isClosed = !circuit.state || circuit.state === "closed";
  return [
    ["Attempts", count(provider.requests)],
    ["p50, p95, p99", isNumber(latency.p50) ? [latency.p50, latency.p95, latency.p99].map(millis).join(", ") : null],
    ["Errors", errors.join(", ") || (provider.requests ? "none" : null)],
    ["Circuit", isClosed ? "closed" : el("span", {}, state(circuit.state), ...circuitWords(circuit))],
    ["Rate limit", limit ? limits(limit) : null],
    ["Uptime, 24 h", percent(provider.uptime_24h)],
    ["Last success", isIll(provider) ? when(provider.last_success_at) : null],
    ["Maintenance", provider.maintenance ? "announced, holds now" : null],
    ["Region", provider.region ? data(provider.region) : null],
  ];
}

function circuitWords(circuit) {
  const words = [];
  if (moment(circuit.opened_at)) words.push(" since ", when(circuit.opened_at));
  if (circuit.reason) words.push(", ", data(plain(circuit.reason)));
  if (circuit.retry_after_s > 0) words.push(`, tried again in ${span(Math.ceil(circuit.retry_after_s))}`);
  return words;
}

function limits(limit) {
  const words = ["requests", "tokens"]
    .filter((name) => isNumber(limit[name]?.remaining))
    .map((name) => `${count(limit[name].remaining)} of ${count(limit[name].limit)} ${name} left`);
  if (isNumber(limit.utilization)) words.push(`${percent(rate(limit.utilization))} used`);
  return words.join(", ") || null;
}

// Facts as pairs; those without a value are left out.
function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, ...told.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function models(provider) {
  const list = provider.models ?? [];
  if (!list.length) return null;
  const ill = list.filter(isIll).length;
  const left = provider.models_left_out > 0 ? `, and ${count(provider.models_left_out)} more` : "";
  return el(
    "details",
    { "data-key": `models ${provider.name}` },
    el(
      "summary",
      {},
      `${list.length} ${list.length === 1 ? "model" : "models"}${left}${ill ? `, ${ill} not healthy` : ""}`,
    ),
    el(
      "div",
      {},
      el("ul", {}, ...list.map((each) => el("li", {}, data(each.name), " ", state(each.status ?? "unknown")))),
    ),
  );
}
