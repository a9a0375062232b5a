// Events: what a row of the feed says.

// Kinds of the history. A request has its own line in the audit log; its dials have one each.
const DIALS = ["attempt", "retry", "failover", "hedge", "clamp", "degraded_answer"];
const REQUESTS = ["request", ...DIALS];
const CHANGES = [
  "circuit",
  "cooldown",
  "provider_down",
  "provider_degraded",
  "provider_recovered",
  "degraded_entered",
  "degraded_left",
  "incident_opened",
  "incident_updated",
  "incident_resolved",
  "maintenance_started",
  "maintenance_ended",
  "reload",
  "credential",
  "canary_withdrawn",
  "notification_failed",
  "store",
];

const KIND_LEVEL = {
  provider_down: "bad",
  provider_degraded: "warn",
  provider_recovered: "good",
  degraded_entered: "warn",
  degraded_left: "good",
  incident_opened: "bad",
  incident_updated: "warn",
  incident_resolved: "good",
  credential: "bad",
  canary_withdrawn: "bad",
  notification_failed: "warn",
  store: "warn",
};

// Routes that a row names.
const ROUTES_MAX = 3;

const target = (entry) => [entry.provider, entry.model].filter(Boolean).join("/");

function kindOf(entry) {
  if (entry.kind === "circuit")
    return el("span", { class: `state ${level(entry.detail?.to)}` }, `circuit ${plain(entry.detail?.to)}`);
  if (entry.kind === "request" && entry.completed === false)
    return el("span", { class: "state bad" }, "request failed");
  if (entry.kind === "request" && entry.fallback) return el("span", { class: "state warn" }, "request failed over");
  const badge = KIND_LEVEL[entry.kind];
  return el("span", badge ? { class: `state ${badge}` } : {}, plain(entry.kind));
}

// What happened, in the order in which it is asked: where, what went wrong, what was done, for whom.
function sentence(entry) {
  const parts = [];
  if (target(entry)) parts.push([data(target(entry))]);
  else if (entry.route) parts.push([data(entry.route)]);
  if (entry.error) parts.push([data(outcome(entry.error)), entry.status >= 400 ? ` (${entry.status})` : ""]);
  for (const text of new Set([entry.detail?.change, entry.message, entry.detail?.reason])) {
    if (text && text !== entry.error) parts.push([data(plain(text))]);
  }
  const routes = Array.isArray(entry.detail?.routes) ? entry.detail.routes : [];
  for (const each of routes.slice(0, ROUTES_MAX)) parts.push(["route ", data(each.route), ` ${plain(each.status)}`]);
  if (routes.length > ROUTES_MAX) parts.push([`${count(routes.length - ROUTES_MAX)} more routes`]);
  const fallback = entry.fallback || entry.detail?.fallback_provider;
  if (fallback) parts.push(["answered by ", data(fallback)]);
  if (isNumber(entry.detail?.duration_s)) parts.push([`after ${span(entry.detail.duration_s)}`]);
  if (entry.request_id) parts.push([requestLink(entry.request_id)]);
  return parts.flatMap((words, index) => (index ? [" · ", ...words] : words));
}

// `timeout.first_byte` in words.
const outcome = (text) => plain(text).replace(".", ": ");

const requestLink = (id) => el("a", { class: "id data", href: `#request=${encodeURIComponent(id)}` }, id);

function feedRow(entry, isNew) {
  const body = el("span", {}, ...sentence(entry));
  return el("li", { class: isNew ? "new" : null, "data-id": entry.id }, when(entry.at), kindOf(entry), body);
}
