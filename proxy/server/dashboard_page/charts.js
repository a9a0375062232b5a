// Drawings, as SVG. Each says in words what it shows; a drawing alone is nothing to a screen reader.

// Points of (unix seconds, value or null) as a line over the last `seconds`; null breaks the line, and a point between
// two breaks is a dot, as the latest one is. Nothing is drawn where no point has a value. `floor` and `ceiling` are the
// least range of the axis.
function sparkline(points, { seconds, now, floor, ceiling, label, isLow = false }) {
  const WIDTH = 200;
  const HEIGHT = 40;
  const values = points.map(([, value]) => value).filter(isNumber);
  if (!values.length) return null;
  const top = Math.max(ceiling, ...values);
  const bottom = Math.min(floor, ...values);
  const x = (at) => Math.max(0, WIDTH - ((now - at) / seconds) * WIDTH);
  const y = (value) => HEIGHT - 2 - ((value - bottom) / (top - bottom || 1)) * (HEIGHT - 4);
  let path = "";
  let dots = "";
  points.forEach(([at, value], index) => {
    if (!isNumber(value)) return;
    const [before, after] = [points[index - 1], points[index + 1]].map((each) => isNumber(each?.[1]));
    const place = `${round(x(at), 1)} ${round(y(value), 1)}`;
    path += `${before ? " L" : " M"} ${place}`;
    if (!after && (!before || index === points.length - 1)) dots += ` M ${place} h 0`;
  });
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }),
    svg("path", { d: path.trim(), class: isLow ? "low" : "" }),
    dots ? svg("path", { d: dots.trim(), class: isLow ? "dot low" : "dot" }) : null,
  );
}

// A share of a whole as a bar; `part` is 0 to 1.
function bar(part) {
  return svg(
    "svg",
    { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { x: 0, y: 1, width: round(Math.max(0.5, part * 100), 2), height: 8 }),
  );
}

// One attempt on the time line of its request: from start to end, with a mark where its first content came.
function lane(attempt, total) {
  const x = (at) => round((Math.max(0, at) / (total || 1)) * 100, 2);
  const width = Math.max(0.6, x(attempt.end - attempt.start));
  const from = Math.min(x(attempt.start), 100 - width);
  const first = attempt.first === null ? null : Math.min(x(attempt.start + attempt.first), 99.4);
  return svg(
    "svg",
    { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "rail", x: 0, y: 4.7, width: 100, height: 0.6 }),
    svg("rect", { class: attempt.level, x: from, y: 1, width, height: 8 }),
    first === null ? null : svg("rect", { class: "mark", x: first, y: 0, width: 0.5, height: 10 }),
  );
}

// One row of days, oldest first: {date, level, words}. A bad day is cut through, a doubtful one has a notch, so that
// colour is not all there is.
function days(list, label) {
  const STEP = 10;
  const cells = list.map((day, index) => {
    const x = index * STEP;
    const sign = { bad: [x + 1, 9, 8, 2], warn: [x + 3, 15, 4, 5] }[day.level];
    return svg(
      "g",
      {},
      svg("title", {}, `${day.date}: ${day.words}`),
      svg("rect", { class: day.level || "none", x: x + 1, y: 0.5, width: 8, height: 19 }),
      sign ? svg("rect", { class: "sign", x: sign[0], y: sign[1], width: sign[2], height: sign[3] }) : null,
    );
  });
  const box = {
    viewBox: `0 0 ${list.length * STEP} 20`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  };
  return svg("svg", box, ...cells);
}
