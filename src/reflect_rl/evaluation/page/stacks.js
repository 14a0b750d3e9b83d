// Stacked columns over iterations, horizontal bars, and the split bar of stop reasons.

const STOPS = { success: "good", dangerous: "bad", horizon: "warn", failure: "other", lost: "quiet" };
const PARTS = ["accent", "warn", "other", "good", "bad", "quiet"];
const stopOrder = (names) => [...Object.keys(STOPS).filter((name) => names.includes(name)), ...names.filter((name) => !(name in STOPS))];

// groups: {name: [value an x]}. `share` divides each column by its sum.
function stackedChart({ title, note, xs, groups, tones, unit, format, share, value }) {
  const names = Object.keys(groups).filter((name) => groups[name].some((value) => known(value) && value > 0));
  if (!names.length) return chart(title, null, () => absent("Not measured."));
  const totals = xs.map((_, i) => sum(names.map((name) => groups[name][i])));
  const scale = totals.map((total) => (share && total ? 1 / total : 1));
  const reach = share ? [0, 1] : extent(totals, true);
  return chart(title, note, (width) => {
    const area = frame(width, { xs, domain: reach, unit, format });
    const { box } = area;
    const room = (box.right - box.left) / xs.length;
    const gap = room > 5 ? 1.5 : 0;
    const left = xs.map((_, i) => box.left + i * room);
    area.x = (x) => left[xs.indexOf(x)] + room / 2;
    const root = svg("svg", { width, height: area.height });
    // Columns need room of their own, so the x labels are placed again at the columns' middles.
    const labels = ticks(0, xs.length - 1, Math.max(1, Math.min(5, xs.length - 1))).filter((i) => Number.isInteger(i)).map((i) =>
      svg("text", { x: left[i] + room / 2, y: box.bottom + 16, "text-anchor": "middle" }, String(xs[i])));
    root.append(...area.parts.filter((part) => part.tagName === "g" || part.getAttribute("class")), ...labels);
    const base = xs.map(() => 0);
    for (const name of names) {
      const d = xs.map((_, i) => {
        const size = (groups[name][i] || 0) * scale[i];
        const [top, bottom] = [area.y(base[i] + size), area.y(base[i])];
        base[i] += size;
        return size ? `M${left[i].toFixed(2)},${bottom.toFixed(2)}V${top.toFixed(2)}h${(room - gap).toFixed(2)}V${bottom.toFixed(2)}Z` : "";
      }).join("");
      root.append(svg("path", { class: `area ${tones[name]}`, d }));
    }
    const describe = (i) => [`iteration ${xs[i]}`, ...names.map((name) => [tones[name], words(name), format((groups[name][i] || 0) * scale[i])])];
    cursor(root, area, xs, describe, `${title}, stacked by ${names.map(words).join(", ")}`);
    return [root, legend(names.map((name) => [tones[name], words(name)]))];
  }, value);
}

// rows: {name, value, text, nested, details}.
function bars(rows, label) {
  const top = Math.max(...rows.map((row) => row.value || 0), 1e-12);
  return h("ul", { class: "bars", "aria-label": label }, rows.map((row) => {
    const fillBar = h("span", { class: `fill ${row.nested ? "quiet" : "accent"}` });
    fillBar.style.width = `${(100 * (row.value || 0)) / top}%`;
    return h("li", { class: row.nested ? "nested" : null, title: row.details },
      h("span", { class: "name" }, row.name), h("span", { class: "track" }, fillBar), h("span", { class: "number" }, row.text));
  }));
}

function split(reasons) {
  const names = stopOrder(entries(reasons).filter(([, value]) => value > 0).map(([name]) => name));
  const total = sum(names.map((name) => reasons[name]));
  if (!total) return ABSENT;
  const tone = (name) => STOPS[name] || "quiet";
  const lines = names.map((name) => [tone(name), words(name), `${count(reasons[name])} (${percent(reasons[name] / total)})`]);
  const bar = h("span", { class: "split", role: "img", "aria-label": lines.map(([, name, text]) => `${name} ${text}`).join(", "),
    onpointermove: (event) => tip.show(event.clientX, event.clientY, ["why episodes ended", ...lines]), onpointerleave: tip.hide },
    names.map((name) => { const part = h("i", { class: tone(name) }); part.style.width = `${(100 * reasons[name]) / total}%`; return part; }));
  return h("span", { class: "stops" }, bar, h("small", {}, names.map((name) => `${words(name)} ${count(reasons[name])}`).join(" · ")));
}
