// Incidents, with evidence and time line.

function incident(told) {
  const isOpen = !told.ended_at;
  const services = (told.affected_services ?? []).join(", ");
  return el(
    "details",
    { "data-key": `incident ${told.id}`, open: isOpen },
    el(
      "summary",
      {},
      el("span", { class: `state ${isOpen ? "bad" : "good"}` }, isOpen ? "open" : "resolved"),
      " ",
      el("strong", {}, plain(told.type)),
      services ? el("span", {}, " of ", data(services)) : null,
      `, severity ${told.severity}, `,
      when(told.timestamp),
      isNumber(told.duration_minutes) ? `, ${span(told.duration_minutes * 60)}` : "",
    ),
    el(
      "div",
      {},
      facts([
        ["Cause", told.cause ? data(plain(told.cause)) : null],
        ["Impact", told.impact ? data(plain(told.impact)) : null],
        ["Region", told.region ? data(told.region) : null],
        ["Requests", affected(told)],
        ...evidence(told.evidence ?? {}),
        ["Resolution", told.resolution ? data(told.resolution) : null],
        ["Id", el("code", { class: "data" }, String(told.id))],
      ]),
      el(
        "ol",
        { class: "when" },
        ...(told.timeline ?? []).map((step) =>
          el("li", {}, when(step.at), data([step.what, step.text].filter(Boolean).map(plain).join(": "))),
        ),
      ),
    ),
  );
}

function moreIncidents(cursor) {
  const next = `v1/incidents?days=30&cursor=${encodeURIComponent(cursor)}`;
  return el("p", { class: "quiet" }, "There are older ones: ", el("a", { href: next }, "the next page, as JSON"), ".");
}

function affected({ affected_requests: all, failed_over: over, user_visible_errors: seen }) {
  if (!isNumber(all)) return null;
  return `${count(all)} affected, ${count(over)} failed over, ${count(seen)} seen by users`;
}

function evidence({ errors = {}, first_failures: failures = [], other_providers_in_trouble: others = [] }) {
  const counted = Object.entries(errors).map(([name, times]) => `${outcome(name)} ${count(times)}`);
  return [
    ["Errors", counted.length ? data(counted.join(", ")) : null],
    [
      "First failures",
      failures.length ? el("ul", {}, ...failures.map((each) => el("li", {}, ...failure(each)))) : null,
    ],
    ["In trouble too", others.length ? data(others.join(", ")) : null],
  ];
}

function failure(told) {
  const words = [when(told.at), " ", data([told.model, outcome(told.error)].filter(Boolean).join(": "))];
  if (told.message) words.push(", ", data(told.message));
  if (told.request_id) words.push(" ", requestLink(told.request_id));
  return words;
}
