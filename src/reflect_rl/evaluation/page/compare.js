// The comparison: in each regime, every seed a dot, the mean and its interval, arms side by side.

function compareSections(data) {
  const regimes = entries(data.regimes);
  if (!regimes.length) return [absent("No regime has been measured yet.")];
  const all = regimes.flatMap(([, regime]) => entries(regime.arms).flatMap(([, arm]) => [...list(arm.success), ...spread(arm)])).filter(known);
  const lowest = all.length ? Math.min(...all) : 0;
  const domain = [lowest < 0.4 ? 0 : Math.floor(lowest * 10) / 10 - (lowest > 0.1 ? 0.1 : 0), 1];
  return [budgetCurves(data, regimes.map(([, regime]) => regime)), ...regimes.map(([name, regime]) => h("div", { class: "regime" }, h("h3", {}, name),
    h("p", { class: "note" }, `horizon ${count(regime.horizon ?? data.horizon)} · ${budget(regime.labels)}`),
    entries(regime.arms).length ? [dotChart(name, regime, domain), armTable(name, regime), detailTables(data.details?.[name])] : absent("Not run.")))];
}

// The interval of an arm's mean; of one seed there is none to tell.
function spread(arm) {
  const range = list(arm.interval);
  return list(arm.success).length !== 1 && range.length === 2 && range.every(known) ? range : [];
}

// Where regimes differ in their reflections alone: what each arm makes of growing budgets, a line an arm.
function budgetCurves(data, regimes) {
  const at = regimes.filter((regime) => known(regime.labels?.reflections)).sort((a, b) => a.labels.reflections - b.labels.reflections);
  const xs = [...new Set(at.map((regime) => regime.labels.reflections))];
  const names = entries(at[0]?.arms).map(([name]) => name).filter((name) => at.every((regime) => regime.arms[name]));
  const rest = (regime) => JSON.stringify([regime.horizon, ...[regime.labels, regime.settings].map((found) =>
    entries(found).filter(([key]) => !/(^|\.)reflections$/.test(key)).sort())]);
  const alone = at.every((regime) => rest(regime) === rest(at[0]));
  if (!alone || xs.length < 2 || xs.length !== at.length || !names.length || names.length > BUDGET_TONES.length) return null;
  const curve = (title, note, read) => lineChart({ title, note, xs, unit: "%", format: (share) => (100 * share).toFixed(0), xName: "reflection labels",
    series: names.map((name, i) => {
      const points = at.map((regime) => read(regime.arms[name]) || {});
      const ranges = points.map((point, n) => spread({ ...at[n].arms[name], interval: point.interval }));
      return { name: at[0].arms[name].title || name, tone: BUDGET_TONES[i], ys: points.map((point) => point.mean),
        low: ranges.map((range) => range[0]), high: ranges.map((range) => range[1]) };
    }) });
  const note = "Means over seeds; bands are 95 % intervals.";
  return h("div", { class: "regime" }, h("h3", {}, "By label budget"), h("div", { class: "charts" },
    curve("Reflector like its teacher", `Held-out states. ${note}`, (arm) => arm.reflector),
    curve("Success, greedy", note, (arm) => arm), curve("Success, sampled", note, (arm) => arm.sampled)));
}

const BUDGET_TONES = ["accent", "good", "warn", "other", "bad", "quiet"];

// What compare.md tells besides: panels, kinds of task, what an arm adds to its start. Folded, for they are many.
function detailTables(tables) {
  return entries(tables).map(([title, [heading, ...rows]]) => h("details", { class: "detail" }, h("summary", {}, title),
    table(heading, rows, { numeric: heading.map((_, i) => i).slice(1), label: title })));
}

function armTable(name, regime) {
  const arms = entries(regime.arms).map(([, arm]) => arm);
  const columns = [
    ["arm", (arm, key) => arm.title || key, false],
    ["seeds", (arm) => String(list(arm.seeds).length || list(arm.success).length), true],
    ["success", (arm) => percent(arm.mean), true],
    ["95 % interval", (arm) => interval(spread(arm)) || (list(arm.success).length === 1 ? "one seed" : ABSENT), true],
    ["each seed, %", (arm) => list(arm.success).map((share) => (known(share) ? (100 * share).toFixed(1) : "–")).join("  "), true],
  ];
  if (arms.some((arm) => arm.sampled)) {
    columns.push(["sampled", (arm) => (arm.sampled ? [percent(arm.sampled.mean), h("small", {}, interval(spread(arm.sampled)) || "")] : ABSENT), true]);
  }
  if (arms.some((arm) => arm.reflector)) {
    columns.push(["reflector like its teacher", (arm) => (arm.reflector ? [percent(arm.reflector.mean), h("small", {}, interval(spread({ ...arm, interval: arm.reflector.interval })) || "")] : "–"), true]);
  }
  if (arms.some((arm) => arm.valid)) {
    columns.push(["validation", (arm) => (arm.valid ? [percent(arm.valid.mean), h("small", {}, interval(spread(arm.valid)) || "")] : ABSENT), true]);
  }
  if (arms.some((arm) => known(arm.seconds))) columns.push(["time", (arm) => duration(arm.seconds), true]);
  return table(columns.map(([title]) => title),
    entries(regime.arms).map(([key, arm]) => columns.map(([, read]) => read(arm, key))),
    { numeric: columns.flatMap(([, , numeric], i) => (numeric ? [i] : [])), label: `Arms of ${name}` });
}

function dotChart(name, regime, [low, high]) {
  const arms = entries(regime.arms);
  return chart(null, "Success of episodes. Each dot is a seed; the diamond is the mean, the line its 95 % interval.", (width) => {
    const names = 16 + 7 * Math.max(...arms.map(([key, arm]) => String(arm.title || key).length));
    const narrow = width < 620 || names > width / 2;
    const row = narrow ? 56 : 40;
    const box = { left: narrow ? 8 : Math.max(232, names), right: width - 62, top: 6, bottom: 6 + row * arms.length };
    const x = (share) => box.left + ((share - low) / (high - low)) * (box.right - box.left);
    const root = svg("svg", { width, height: box.bottom + 38, role: "img", class: "dots",
      "aria-label": `Success by arm, ${name}: ${arms.map(([key, arm]) => `${arm.title || key} ${percent(arm.mean)}`).join(", ")}` });
    for (const mark of ticks(low, high, narrow ? 4 : 6)) {
      root.append(svg("line", { class: mark === low ? "axis" : "grid", x1: x(mark), x2: x(mark), y1: box.top, y2: box.bottom }),
        svg("text", { x: x(mark), y: box.bottom + 16, "text-anchor": "middle" }, percent(mark, 0)));
    }
    root.append(svg("text", { class: "axis-name", x: box.right, y: box.bottom + 33, "text-anchor": "end" }, "success of episodes"));
    arms.forEach(([key, arm], index) => {
      const y = box.top + row * index + (narrow ? 34 : row / 2);
      const title = arm.title || key;
      const values = list(arm.success);
      const lines = [title, ["accent", "mean", percent(arm.mean)], ["accent", "interval", interval(spread(arm)) || ABSENT],
        ...values.map((share, i) => ["quiet", `seed ${list(arm.seeds)[i] ?? i}`, percent(share)])];
      const group = svg("g", { onpointermove: (event) => tip.show(event.clientX, event.clientY, lines), onpointerleave: tip.hide },
        svg("rect", { class: "hit", x: 0, y: box.top + row * index, width, height: row }),
        svg("text", { class: "row-name", x: 0, y: narrow ? y - 16 : y + 4 }, title));
      if (spread(arm).length) {
        const [from, to] = spread(arm).map((share) => x(Math.max(low, Math.min(high, share))));
        group.append(svg("path", { class: "whisker", d: `M${from},${y - 5}H${to}M${from},${y - 9}v8M${to},${y - 9}v8` }));
      }
      // Seeds lie under the whisker; those with the same figure lie below one another.
      const seen = new Map();
      values.filter(known).forEach((share) => {
        const place = Math.round(x(share) / 6);
        const nth = seen.get(place) || 0;
        seen.set(place, nth + 1);
        group.append(svg("circle", { class: "seed", cx: x(share), cy: y + 7 + nth * 2.5, r: 3.5 }));
      });
      if (known(arm.mean)) group.append(svg("path", { class: "mean", d: `M${x(arm.mean)},${y - 11}l6,6l-6,6l-6,-6z` }));
      group.append(svg("text", { class: "row-value", x: width, y: y + 4, "text-anchor": "end" }, known(arm.mean) ? percent(arm.mean) : "not run"));
      root.append(group);
    });
    return root;
  });
}
