// Axes and the line chart. A chart draws itself again whenever its width changes, so that its type never scales.

function chart(title, note, draw, value) {
  const host = h("div", { class: "plot" });
  const node = h("figure", { class: "chart" },
    h("figcaption", {}, title && h("span", { class: "name" }, title), value && h("span", { class: "value" }, value),
      note && h("span", { class: "note" }, note)), host);
  let width = 0;
  new ResizeObserver(([entry]) => {
    const next = Math.floor(entry.contentRect.width);
    if (next < 80 || next === width) return;
    width = next;
    host.replaceChildren(...[draw(width)].flat());
  }).observe(host);
  return node;
}

// Round numbers that cover [low, high] with about `wanted` steps.
function ticks(low, high, wanted) {
  const rough = (high - low || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => +((first + i) * step).toPrecision(12));
}

function extent(values, zero) {
  const kept = values.filter(known);
  let [low, high] = kept.length ? [Math.min(...kept), Math.max(...kept)] : [0, 1];
  if (zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
  if (low === high) [low, high] = [low - (zero && low === 0 ? 0 : 0.5), high + 0.5];
  const marks = ticks(low, high, 4);
  const step = marks.length > 1 ? marks[1] - marks[0] : 1;
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
}

// The frame that every x-y chart shares: grid, ticks, axis names, and the scales.
function frame(width, { xs, domain, unit, format, height = 198, xName = "iteration" }) {
  const box = { left: 46, right: width - 10, top: 26, bottom: height - 34 };
  const [low, high] = domain;
  const [first, last] = [xs[0], xs[xs.length - 1]];
  const x = (value) => (first === last ? (box.left + box.right) / 2 : box.left + ((value - first) / (last - first)) * (box.right - box.left));
  const y = (value) => box.bottom - ((value - low) / (high - low)) * (box.bottom - box.top);
  const rows = ticks(low, high, 4).map((mark) => svg("g", {},
    svg("line", { class: mark === 0 || mark === low ? "axis" : "grid", x1: box.left, x2: box.right, y1: y(mark), y2: y(mark) }),
    svg("text", { x: box.left - 7, y: y(mark) + 4, "text-anchor": "end" }, format(mark))));
  const marks = ticks(first, last, Math.max(2, Math.min(6, width / 80))).filter((mark) => Number.isInteger(mark));
  const columns = marks.map((mark) => svg("text", { x: x(mark), y: box.bottom + 16, "text-anchor": "middle" }, String(mark)));
  const names = [
    svg("text", { class: "axis-name", x: 0, y: 9 }, unit),
    svg("text", { class: "axis-name", x: box.right, y: height - 3, "text-anchor": "end" }, xName),
  ];
  return { box, x, y, height, parts: [...rows, ...columns, ...names] };
}

// A cursor over the nearest x: by pointer, or by arrow keys once the chart has the focus.
function cursor(root, frameOf, xs, describe, label) {
  const { box, x } = frameOf;
  const line = svg("line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  root.append(line);
  root.setAttribute("tabindex", "0");
  root.setAttribute("role", "img");
  root.setAttribute("aria-label", label);
  let at = -1;
  const select = (index, left, top) => {
    at = Math.max(0, Math.min(xs.length - 1, index));
    for (const end of ["x1", "x2"]) line.setAttribute(end, x(xs[at]));
    line.setAttribute("visibility", "visible");
    tip.show(left, top, describe(at));
  };
  const leave = () => { line.setAttribute("visibility", "hidden"); tip.hide(); };
  root.addEventListener("pointermove", (event) => {
    const inside = event.clientX - root.getBoundingClientRect().left;
    const distances = xs.map((value) => Math.abs(x(value) - inside));
    select(distances.indexOf(Math.min(...distances)), event.clientX, event.clientY);
  });
  root.addEventListener("pointerleave", leave);
  root.addEventListener("blur", leave);
  root.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const index = Math.max(0, Math.min(xs.length - 1, at + move));
    const place = root.getBoundingClientRect();
    select(index, place.left + x(xs[index]), place.top + box.top);
  });
  return root;
}

// A path through the points that are known; it is broken where one is missing.
function path(xs, ys) {
  let pen = "M";
  return xs.map((value, i) => {
    if (!known(ys[i])) { pen = "M"; return ""; }
    const piece = `${pen}${value.toFixed(1)},${ys[i].toFixed(1)}`;
    pen = "L";
    return piece;
  }).join("");
}

// series: {name, tone, ys, low, high, dots, large, dashed}. `low` and `high` make a band; `large`: x of a large dot.
function lineChart({ title, note, xs, series, unit, format = figure, domain, zero, xName = "iteration" }) {
  const drawn = series.filter((one) => one.ys.some(known));
  if (!drawn.length) return chart(title, null, () => absent("Not measured."));
  const reach = domain || extent(drawn.flatMap((one) => [...one.ys, ...(one.low || []), ...(one.high || [])]), zero);
  const last = drawn[0].ys.filter(known).at(-1);
  return chart(title, note, (width) => {
    const area = frame(width, { xs, domain: reach, unit, format, xName });
    const root = svg("svg", { width, height: area.height });
    root.append(...area.parts);
    const left = xs.map(area.x);
    const at = (values) => values.map((value) => (known(value) ? area.y(value) : null));
    for (const one of drawn) {
      if (one.low) {
        const there = xs.map((_, i) => i).filter((i) => known(one.low[i]) && known(one.high[i]));
        const points = [...there.map((i) => [left[i], area.y(one.high[i])]), ...there.reverse().map((i) => [left[i], area.y(one.low[i])])];
        if (points.length) root.append(svg("polygon", { class: `band ${one.tone}`, points: points.map((point) => point.map((v) => v.toFixed(1)).join()).join(" ") }));
      }
      if (!one.dots) root.append(svg("path", { class: `line ${one.tone}${one.dashed ? " dashed" : ""}`, d: path(left, at(one.ys)) }));
      if (one.dots || xs.length === 1) {
        root.append(...one.ys.map((value, i) => known(value) && svg("circle", { class: `dot ${one.tone}`, cx: left[i], cy: area.y(value), r: xs[i] === one.large ? 6 : 3 })).filter(Boolean));
      }
    }
    const describe = (i) => [`${xName} ${xs[i]}`, ...drawn.filter((one) => known(one.ys[i])).map((one) => [one.tone, one.name,
      format(one.ys[i]) + (one.low && known(one.low[i]) ? `  [${format(one.low[i])}, ${format(one.high[i])}]` : "")])];
    cursor(root, area, xs, describe, `${title}: ${format(drawn[0].ys.find(known))} at first, ${format(last)} at last`);
    return drawn.length > 1 ? [root, legend(drawn.map((one) => [one.tone, one.name]))] : root;
  }, format(last));
}
