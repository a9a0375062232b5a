// The page itself: asks, listens, and tells how fresh it is.
//
// The numbers are asked for every few seconds whether or not the stream is open. The stream brings events at once and
// the next asking forward; without it the page is a little slower and not wrong.

const HEALTH_MS = 5000;
const MONTH_MS = 60000;
const STALE_S = 15;
const STREAM_MS = [1000, 2000, 5000, 10000, 30000];
const FEED_ROWS = 200;
const POINTS = 1 + (SPARK_S * 1000) / HEALTH_MS;
const NEEDS_TOKEN =
  "This port asks for a token, which a browser does not send. The admin port (listen.admin, 8712 unless configured " +
  "otherwise) shows this page without one: kubectl port-forward POD 8712, then http://localhost:8712/.";

const PARTIAL = "The history cannot be read at present; this is what is still in memory.";

const seconds = () => Date.now() / 1000;
const isPartial = (told) => told.complete === false;

// What a section says of its own trouble. That nobody answers, or wants a token, stands at the top of the page.
const trouble = (error) => ([0, 401].includes(error.status) ? "" : error.message);

// Providers now -------------------------------------------------------------------------------------------------------

const points = new Map();
let health = null;
let healthAt = 0;
let lostAt = 0;

function keepPoints(now) {
  for (const each of health.providers ?? []) {
    const list = points.get(each.name) ?? [];
    list.push([now, each.avg_response_time_ms ?? null, rate(each.success_rate)]);
    while (list.length > POINTS || now - list[0][0] > SPARK_S) list.shift();
    points.set(each.name, list);
  }
}

function showHealth() {
  const list = health.providers ?? [];
  const overall = by("overall");
  const word = plain(health.status ?? "unknown");
  if (overall.textContent !== word) overall.textContent = word;
  overall.className = `state ${level(health.status)}`;
  document.title = `${level(health.status) === "good" ? "" : `${word}: `}Outrider`;
  show(by("banner"), [list.map((each) => [each.name, each.status, each.reason, each.since]), health.routes], () =>
    banner(health),
  );
  show(by("providers"), [healthAt], () => providerCards(list, (name) => points.get(name) ?? [], healthAt));
}

async function askHealth() {
  try {
    health = await ask("v1/health");
    healthAt = seconds();
    lostAt = 0;
    keepPoints(healthAt);
    showHealth();
    note("providers-note", "");
  } catch (error) {
    lostAt ||= seconds();
    note("providers-note", error.status === 401 ? NEEDS_TOKEN : trouble(error));
  }
  showLink();
}

// How fresh it is, in one line.
function showLink() {
  const now = seconds();
  const age = now - healthAt;
  let words;
  if (lostAt && healthAt)
    words = `Disconnected since ${clock(moment(lostAt))}. The numbers are those of ${clock(moment(healthAt))}.`;
  else if (lostAt) words = `No connection since ${clock(moment(lostAt))}.`;
  else if (age > STALE_S && healthAt) words = `The numbers are those of ${clock(moment(healthAt))}.`;
  else if (streamIsOpen) words = "Live.";
  else words = `Without live events; asking every ${HEALTH_MS / 1000} s.`;
  const box = by("link");
  if (box.textContent !== words) box.textContent = words;
  box.className = lostAt || age > STALE_S ? "note" : "quiet";
}

// Events --------------------------------------------------------------------------------------------------------------

const isChange = (entry) => CHANGES.includes(entry.kind);
const isDial = (entry) => DIALS.includes(entry.kind);
const newest = (list) => list.sort((a, b) => b.id - a.id).slice(0, FEED_ROWS);
const lastId = (list) => Math.max(0, ...list.map((each) => each.id));

// By number. Changes of state and requests are kept apart, so that the many do not push out the few.
const entries = new Map();
const changes = () => [...entries.values()].filter(isChange);
const requests = () => [...entries.values()].filter((each) => !isChange(each));
let isPaused = false;
let untold = 0;

// Events come from the stream and from the history; the number tells which are the same.
function take(list, isNew) {
  const fresh = list.filter((each) => isNumber(each.id) && !entries.has(each.id));
  if (!fresh.length) return;
  for (const each of fresh) entries.set(each.id, each);
  const kept = [...newest(changes()), ...newest(requests())];
  entries.clear();
  for (const each of kept) entries.set(each.id, each);
  const [told] = newest(fresh.filter(isChange));
  if (isNew && told) by("said").textContent = `${plain(told.kind)}: ${target(told)} ${told.message ?? ""}`;
  if (isPaused) untold += fresh.length;
  showFeed(isNew ? new Set(fresh.map((each) => each.id)) : new Set());
}

const FILTERS = { changes: isChange, requests: (entry) => !isDial(entry), all: () => true };

function showFeed(fresh = new Set()) {
  const button = by("feed-pause");
  button.setAttribute("aria-pressed", String(isPaused));
  button.textContent = isPaused ? `Go on${untold ? ` (${untold} new)` : ""}` : "Pause";
  if (isPaused) return;
  const isShown = FILTERS[by("feed-filter").value];
  const list = [...entries.values()].filter(isShown).sort((a, b) => b.id - a.id);
  showRows(by("feed"), list, fresh);
  by("feed-empty").hidden = list.length > 0;
}

// Only rows that are new are made: whoever reads or holds the focus in the others is not disturbed.
function showRows(box, list, fresh) {
  const wanted = new Set(list.map((each) => String(each.id)));
  for (const row of [...box.children]) {
    if (!wanted.has(row.dataset.id)) row.remove();
  }
  let next = box.firstElementChild;
  for (const each of list) {
    if (next?.dataset.id === String(each.id)) next = next.nextElementSibling;
    else box.insertBefore(feedRow(each, fresh.has(each.id)), next);
  }
}

// What has come since the last asking; if that is more than one answer holds, the newest of it.
async function latest(kinds, known) {
  const path = `v1/events?limit=${FEED_ROWS}&kind=${kinds}`;
  const since = lastId(known);
  const told = await ask(since ? `${path}&since=${since}` : path);
  return since && told.next ? ask(path) : told;
}

let isFirst = true;
async function askEvents() {
  try {
    const told = await Promise.all([latest(CHANGES, changes()), latest(REQUESTS, requests())]);
    take(
      told.flatMap((each) => each.events ?? []),
      !isFirst,
    );
    isFirst = false;
    note("feed-note", told.some(isPartial) ? PARTIAL : "");
  } catch (error) {
    note("feed-note", trouble(error));
  }
}

// The stream ----------------------------------------------------------------------------------------------------------

const STREAMED = [
  "provider_down",
  "provider_degraded",
  "provider_recovered",
  "circuit_changed",
  "degraded_entered",
  "degraded_left",
  "incident_opened",
  "incident_updated",
  "incident_resolved",
  "maintenance_started",
  "maintenance_ended",
];
const SILENT_S = 40; // more than two heartbeats
let stream = null;
let heardAt = 0;
let streamIsOpen = false;
let streamFails = 0;
let streamTimer = 0;

// A browser opens a stream again by itself, and tells the last number, but not after an answer that is no stream.
function listen() {
  hangUp();
  const since = lastId([...entries.values()]);
  stream = new EventSource(`v1/health/stream${since ? `?since=${since}` : ""}`);
  stream.onopen = () => {
    streamIsOpen = true;
    streamFails = 0;
    heardAt = seconds();
    showLink();
  };
  stream.onerror = () => {
    streamIsOpen = false;
    showLink();
    if (stream.readyState !== EventSource.CLOSED) return;
    streamTimer = setTimeout(listen, STREAM_MS[Math.min(streamFails, STREAM_MS.length - 1)]);
    streamFails += 1;
  };
  for (const kind of ["heartbeat", ...STREAMED]) stream.addEventListener(kind, () => (heardAt = seconds()));
  for (const kind of STREAMED) stream.addEventListener(kind, heard);
}

function hangUp() {
  clearTimeout(streamTimer);
  stream?.close();
  stream = null;
  streamIsOpen = false;
}

// A page that nobody sees keeps no connection: a browser has six for one host, and all its tabs share them.
function listenWhileSeen() {
  if (document.hidden) hangUp();
  else if (!stream) listen();
}

// A connection that has died without a word is seen by its silence.
function checkStream() {
  if (streamIsOpen && seconds() - heardAt > SILENT_S) listen();
}

// The stream lays open beside the rest what the history keeps in `detail`.
function heard(event) {
  const told = JSON.parse(event.data);
  take([{ ...told, detail: told }], true);
  askNowSoon();
  askMonthSoon();
}

// What an event has changed is asked for soon, and once for all events of a burst.
function soonly(asking, ms) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => {
      timer = 0;
      void asking();
    }, ms);
  };
}
const askNowSoon = soonly(() => askNow(), 250);
const askMonthSoon = soonly(() => askMonth(), 1000);

// The month -----------------------------------------------------------------------------------------------------------

// Whatever limits what is known of the month: without a file, it began with the process.
const historyWords = ({ history }) => (history?.reason ? `The history is ${history.status}: ${history.reason}.` : "");

async function section(id, path, paint, words = (told) => (isPartial(told) ? PARTIAL : "")) {
  try {
    const told = await ask(path);
    paint(told);
    note(`${id}-note`, words(told));
  } catch (error) {
    note(`${id}-note`, trouble(error));
  }
}

async function askMonth() {
  await Promise.all([
    section("incidents", "v1/incidents?days=30", (told) => {
      const list = told.incidents ?? [];
      show(by("incidents"), told, () => [...list.map(incident), ...(told.next ? [moreIncidents(told.next)] : [])]);
      by("incidents-empty").hidden = list.length > 0;
    }),
    section("analytics", "v1/analytics?days=30", (told) => {
      show(by("tiles"), told, () => tiles(told));
      show(by("reasons"), told.failovers, () => reasons(told));
    }),
    section("uptime", "v1/uptime?days=30", (told) => show(by("uptime"), told, () => uptime(told))),
    section("history", "v1/capabilities", () => {}, historyWords),
  ]);
}

// One request ---------------------------------------------------------------------------------------------------------

async function askRequest() {
  const id = new URLSearchParams(location.hash.slice(1)).get("request")?.trim();
  if (!id) return;
  by("request-id").value = id;
  note("request-note", "asking …");
  try {
    const told = await ask(`v1/explain/${encodeURIComponent(id)}`);
    show(by("request"), told, () => waterfall(told));
    note("request-note", "");
  } catch (error) {
    by("request").replaceChildren();
    note("request-note", error.message);
  }
  by("h-request").scrollIntoView({ block: "start" });
}

// The start -----------------------------------------------------------------------------------------------------------

const askNow = () => Promise.all([askHealth(), askEvents()]);

// A page that nobody sees asks nothing, and asks at once when it is looked at again.
function every(ms, asking) {
  setInterval(() => document.hidden || void asking(), ms);
  document.addEventListener("visibilitychange", () => document.hidden || void asking());
}

by("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
by("feed-filter").addEventListener("change", () => showFeed());
by("feed-pause").addEventListener("click", () => {
  isPaused = !isPaused;
  untold = 0;
  showFeed();
});
by("request-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const hash = `#request=${encodeURIComponent(by("request-id").value.trim())}`;
  if (hash === location.hash) void askRequest();
  else location.hash = hash;
});
window.addEventListener("hashchange", () => void askRequest());

every(HEALTH_MS, askNow);
every(MONTH_MS, askMonth);
setInterval(showLink, 1000);
setInterval(checkStream, 1000);
void askNow().then(() => {
  listenWhileSeen();
  document.addEventListener("visibilitychange", listenWhileSeen);
});
void askMonth();
void askRequest();
