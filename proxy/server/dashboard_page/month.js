// The last 30 days: failovers by reason and the uptime of every day.

function tiles(told) {
  const { hedges = {}, failovers = {}, degraded = {}, cost_usd: cost = {} } = told;
  const retries = told.mean_retries_before_success;
  const pairs = [
    ["Requests", count(told.requests)],
    ["Primary success rate", percent(rate(told.primary_success_rate))],
    ["Failed over", count(failovers.requests)],
    ["Mean retries before success", isNumber(retries) ? round(retries, 2) : NONE],
    ["Hedges sent / won", `${count(hedges.sent)} / ${count(hedges.won)}`],
    ["Cache hits", count(told.cache_hits)],
    ["Degraded answers", percent(rate(degraded.share))],
    ["Cost of fallbacks", money(cost.by_fallbacks)],
  ];
  return pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

function reasons(told) {
  const list = Object.entries(told.failovers?.reasons ?? {})
    .filter(([, times]) => times > 0)
    .sort((a, b) => b[1] - a[1]);
  if (!list.length) return [el("p", { class: "quiet" }, "No failover in this time.")];
  const all = list.reduce((sum, [, times]) => sum + times, 0);
  const rows = list.map(([name, times]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, plain(name)),
      el("td", { class: "bar" }, bar(times / list[0][1])),
      el("td", { class: "number" }, count(times)),
      el("td", { class: "number" }, percent((times / all) * 100)),
    ),
  );
  const head = [
    ["Reason", ""],
    ["", "bar"],
    ["Count", "number"],
    ["Share", "number"],
  ];
  return [
    el(
      "table",
      {},
      el("caption", {}, "Failovers by reason"),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ...head.map(([name, kind]) =>
            name ? el("th", { scope: "col", class: kind }, name) : el("td", { class: kind }),
          ),
        ),
      ),
      el("tbody", {}, ...rows),
    ),
  ];
}

// Below this share of a day, a day is bad; between it and the whole, doubtful.
const BAD_DAY = 99;

function day(told) {
  const uptime = told.uptime_percentage;
  if (!isNumber(uptime)) return { date: told.date, level: "none", words: "no data" };
  const down = told.downtime_minutes > 0 ? `, ${span(told.downtime_minutes * 60)} down` : "";
  const grade = uptime >= 100 ? "good" : uptime >= BAD_DAY ? "warn" : "bad";
  return { date: told.date, level: grade, words: `${percent(uptime)}${down}` };
}

function uptimeRow(name, told) {
  const list = (told.daily ?? []).map(day);
  const ill = list.filter((each) => each.level === "warn" || each.level === "bad");
  const worst = ill.map((each) => `${each.date}: ${each.words}`).join("; ");
  const whole = percent(told.uptime_percentage);
  const label = `${name}: ${whole} of ${list.length} days. ${worst || "No day with downtime"}.`;
  const words = [whole];
  if (isNumber(told.downtime_minutes)) words.push(`${span(told.downtime_minutes * 60)} down`);
  const left = told.error_budget?.left_percent;
  if (isNumber(left)) words.push(left < 0 ? "the error budget is spent" : `${percent(left)} of the error budget left`);
  return el(
    "div",
    { class: "days" },
    el("div", { class: "line" }, el("h3", {}, data(name)), el("span", { class: "quiet" }, words.join(", "))),
    list.length ? days(list, label) : null,
    list.length
      ? el("div", { class: "axis quiet" }, el("span", {}, list[0].date), el("span", {}, list.at(-1).date))
      : null,
    ill.length
      ? el(
          "details",
          { "data-key": `days ${name}` },
          el("summary", {}, `${ill.length} ${ill.length === 1 ? "day" : "days"} with downtime`),
          el("div", {}, el("ul", {}, ...ill.map((each) => el("li", {}, `${each.date}: ${each.words}`)))),
        )
      : null,
  );
}

function uptimeRest(list) {
  const ill = list.filter((each) => each.downtime_minutes > 0).length;
  const lines = list.map((each) => {
    const words = [percent(each.uptime_percentage)];
    if (each.downtime_minutes > 0) words.push(`${span(each.downtime_minutes * 60)} down`);
    return el("li", {}, data(each.name), `: ${words.join(", ")}`);
  });
  return el(
    "details",
    { "data-key": "days rest" },
    el("summary", {}, `${count(list.length)} more, ${ill ? `${count(ill)} with downtime` : "none with downtime"}`),
    el("div", {}, el("ul", { class: "columns" }, ...lines)),
  );
}

function uptime(told) {
  const list = told.providers ?? [];
  const share = (each) => (isNumber(each.uptime_percentage) ? each.uptime_percentage : 101);
  const ordered = list.length > FULL_MAX ? [...list].sort((a, b) => share(a) - share(b)) : list;
  const rows = ordered.slice(0, FULL_MAX).map((each) => uptimeRow(each.name, each));
  const rest = ordered.slice(FULL_MAX);
  const windows = told.maintenance ?? [];
  const announced = windows.map((each) => {
    const what = [each.provider ?? each.route, each.model, each.note].filter(Boolean).join(", ");
    return el("li", {}, when(each.from), " to ", when(each.until), each.active ? " (now)" : "", ": ", data(what));
  });
  return [
    told.overall ? uptimeRow("All together", told.overall) : null,
    ...rows,
    rest.length ? uptimeRest(rest) : null,
    windows.length ? el("h3", {}, "Maintenance, not counted") : null,
    windows.length ? el("ul", {}, ...announced) : null,
  ].filter(Boolean);
}
