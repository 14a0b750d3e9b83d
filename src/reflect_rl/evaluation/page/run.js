// The sections of a run: result, curves, time, settings.

const PANELS = { unseen: "held-out starts, unseen rooms", seen: "held-out starts, seen rooms", test: "held-out starts", all: "all starts", valid: "validation starts", train: "training starts" };

function resultSection(data) {
  const { results } = data;
  if (!results) return absent("Not measured: the run has not been evaluated yet.");
  const conditions = `horizon ${count(results.horizon)} · ${budget(results.labels)}`;
  const panel = (name, mode) => results.panels?.[name]?.[mode];
  const tiles = [
    tile("Held-out starts, greedy", panel("test", "greedy")),
    tile("Held-out starts, sampled", panel("test", "sampled")),
    panel("all", "greedy") ? tile("All starts, greedy", panel("all", "greedy")) : tile("Validation starts, greedy", panel("valid", "greedy")),
  ];
  const order = [...Object.keys(PANELS), ...Object.keys(results.panels || {})];
  const ranked = entries(results.panels).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  const rows = ranked.flatMap(([name, modes]) => entries(modes).map(([mode, one]) => [
    PANELS[name] || words(name), mode, percent(one.success), interval(one.interval) || ABSENT, count(one.episodes),
    fixed(one.return_mean), fixed(one.steps_mean, 1), split(one.stop_reasons)]));
  return [
    data.outdated && absent("These results and episodes are of an earlier agent, which has been trained anew since. Evaluate the run again."),
    h("div", { class: "headline" }, h("div", { class: "tiles" }, tiles), h("p", { class: "note" }, `Measured at ${conditions}`)), facts(data),
    rows.length ? table(["panel", "mode", "success", "95 % interval", "episodes", "return", "steps", "why episodes ended"], rows,
      { numeric: [2, 3, 4, 5, 6], caption: `Measured at ${conditions}. Return and steps are means an episode.`, label: "Results by panel" })
      : absent("No panel was measured."),
    kindsTable(ranked, conditions),
  ];
}

function kindsTable(ranked, conditions) {
  const parts = (one) => [
    ...entries(one.kinds).map(([kind, part]) => [words(kind), part]),
    ...entries(one.within).map(([steps, part]) => [`all, within ${steps} steps`, part])];
  const rows = ranked.flatMap(([name, modes]) => entries(modes).flatMap(([mode, one]) => parts(one).map(([kind, part]) => [
    PANELS[name] || words(name), mode, kind, percent(part.success), interval(part.interval) || ABSENT, count(part.episodes ?? one.episodes),
    known(part.steps_mean) ? fixed(part.steps_mean, 1) : "", part.stop_reasons ? split(part.stop_reasons) : ""])));
  return rows.length ? table(["panel", "mode", "kind of task", "success", "95 % interval", "episodes", "steps", "why episodes ended"], rows,
    { numeric: [3, 4, 5, 6], caption: `By kind of task. Measured at ${conditions}.`, label: "Results by kind of task" }) : "";
}

function tile(title, panel) {
  const range = list(panel?.interval);
  const bar = h("div", { class: "range", "aria-hidden": "true" });
  if (range.length === 2 && range.every(known) && known(panel.success)) {
    const [band, dot] = [h("i", { class: "band" }), h("i", { class: "point" })];
    band.style.left = `${100 * range[0]}%`;
    band.style.width = `${100 * (range[1] - range[0])}%`;
    dot.style.left = `${100 * panel.success}%`;
    bar.append(band, dot);
  }
  return h("div", { class: "tile" }, h("h3", {}, title),
    h("p", { class: known(panel?.success) ? "big" : "big absent" }, known(panel?.success) ? percent(panel.success) : ABSENT), bar,
    h("p", { class: "note" }, panel ? `${interval(range) ? `95 % interval ${interval(range)}` : "no interval"} · ${count(panel.episodes)} episodes` : ""));
}

function facts({ results, reflector, manifests, guard }) {
  const seconds = sum(list(manifests).map((one) => one.seconds));
  const kept = results.guard || guard;
  const met = results.panels?.test?.greedy?.agreement;
  const rows = [
    ["policy", known(results.parameters?.policy) ? `${count(results.parameters.policy)} parameters` : ABSENT],
    ["reflector", results.parameters?.reflector ? `${count(results.parameters.reflector)} parameters` : results.reflector || "none"],
    ["reflector agrees with teacher", percent(reflector?.agreement) + (met ? ` held out, ${percent(met.share)} in test tasks` : "")],
    ["time", duration(seconds || (known(results.seconds) ? results.seconds : sum(Object.values(results.seconds || {})) || null))],
    kept && ["guard kept", words(kept.kept ?? ABSENT)],
  ];
  return h("dl", { class: "facts" }, rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function warmUps(data) {
  return ["reflector", "policy"].map((who) => [who, data[`sft_${who}`]]).filter(([, losses]) => losses).map(([who, { step, loss }]) =>
    lineChart({ title: `SFT of the ${who}`, note: "loss of its warm-up", xs: step, xName: "step", unit: "loss", zero: true,
      series: [{ name: "loss", tone: "accent", ys: loss }] }));
}

function curvesSection(data) {
  const { metrics, manifests } = data;
  const sft = warmUps(data);
  const first = sft.length > 0 && h("div", { class: "charts" }, sft);
  if (!metrics) return [first, absent("Not run: there are no RL iterations in this run.")];
  const { columns } = metrics;
  const xs = columns.iteration;
  const share = (value) => percent(value, 0);
  const line = (title, key, unit, note, zero) => lineChart({ title, note, xs, unit, zero, series: [{ name: title.toLowerCase(), tone: "accent", ys: columns[key] }] });
  const stops = Object.fromEntries(stopOrder(Object.keys(columns.stop_reasons)).map((name) => [name, columns.stop_reasons[name]]));
  const parts = Object.keys(columns.seconds);
  const distinct = columns.distinct_prompts.map((value, i) => (known(value) && columns.env_steps[i] ? value / columns.env_steps[i] : null));
  const kept = list(manifests).find((one) => one.stage === "rl")?.counts?.kept;
  return [
    first,
    kept && h("p", { class: "note" }, "Of the policies measured on the validation starts, the best is kept: that "
      + `${kept.iterations ? `after ${count(kept.iterations)} of ${count(metrics.total)} iterations` : "before RL"}, with ${percent(kept.valid_success)}.`),
    h("div", { class: "charts" },
      lineChart({ title: "Success", note: `sampled training episodes, 95 % Wilson band; dots: validation${kept?.iterations ? ", the large one of the policy kept" : ""}`, xs, unit: "share of episodes", format: share, domain: [0, 1],
        series: [{ name: "training", tone: "accent", ys: columns.success, low: columns.success_low, high: columns.success_high },
          { name: "validation", tone: "good", ys: columns.valid_success, dots: true, large: kept && kept.iterations - 1 }] }),
      line("Return", "return_mean", "mean reward sum", "mean an episode"),
      stackedChart({ title: "Why episodes ended", note: "share of training episodes", xs, groups: stops, share: true, unit: "share of episodes", format: share,
        tones: Object.fromEntries(Object.keys(stops).map((name) => [name, STOPS[name] || "quiet"])) }),
      line("Entropy", "entropy", "nats", "of the action distribution", true),
      line("KL", "kl", "nats", "from the policy before the update", true),
      stackedChart({ title: "Time", note: "an iteration", xs, groups: columns.seconds, unit: "seconds", format: figure,
        tones: Object.fromEntries(parts.map((name, i) => [name, PARTS[i % PARTS.length]])), value: `${duration(sum(Object.values(metrics.seconds)))} in all` })),
    h("details", { class: "block" }, h("summary", {}, "More curves"), h("div", { class: "charts" },
      line("Steps", "steps_mean", "steps", "mean an episode", true), line("Clip fraction", "clip_fraction", "share", "of choices outside the clipping range", true),
      line("Loss", "loss", "loss"), line("Gradient norm", "grad_norm", "norm", "before clipping", true),
      lineChart({ title: "Distinct prompts", note: "share of environment steps; only these are forwarded", xs, unit: "share of steps", format: share, zero: true,
        series: [{ name: "distinct", tone: "accent", ys: distinct }] }))),
    metrics.total > xs.length && h("p", { class: "note" }, `${xs.length} of ${count(metrics.total)} iterations are drawn, evenly spaced; metrics.jsonl holds them all.`),
  ];
}

function timeSection({ manifests, metrics }) {
  const stages = list(manifests).filter((one) => known(one.seconds));
  if (!stages.length) return absent("Not measured: no stage has finished yet.");
  const total = sum(stages.map((one) => one.seconds));
  const rows = stages.flatMap((one) => [
    { name: words(one.stage), value: one.seconds, text: `${duration(one.seconds)}  ·  ${percent(one.seconds / total, 0)}`, details: inline(one.counts) },
    ...(one.stage === "rl" ? entries(metrics?.seconds) : []).map(([name, value]) => ({ name, value, text: duration(value), nested: true })),
  ]);
  return [bars(rows, "Seconds a stage"), h("p", { class: "note" }, `${duration(total)} in all. Pale bars are parts of the stage above them.`)];
}

// A value in a line. What a stage does not count is null.
function inline(value) {
  if (Array.isArray(value)) return value.map(inline).join(", ");
  if (!value || typeof value !== "object") return known(value) ? count(value) : String(value ?? ABSENT);
  return entries(value).filter(([, one]) => one !== null).map(([key, one]) => `${words(key)} ${inline(one)}`).join(" · ");
}

function pairs(data) {
  const flat = (value, prefix) => entries(value).flatMap(([key, one]) =>
    (one && typeof one === "object" && !Array.isArray(one) ? flat(one, `${prefix}${key}.`) : [[`${prefix}${key}`, one]]));
  return table(["what", "value"], flat(data, "").map(([key, value]) => [words(key), inline(value)]));
}

function provenanceSection({ manifests, settings }) {
  const stages = list(manifests);
  const versions = [...new Map(stages.flatMap((one) => entries(one.versions))).entries()];
  const files = stages.flatMap((one) => ["inputs", "outputs"].flatMap((side) =>
    entries(one[side]).map(([name, value]) => [words(one.stage), side.slice(0, -1), name, value ? h("code", {}, inline(value).slice(0, 16)) : "not there"])));
  const changed = settings.filter((one) => one.changed);
  const shown = (value) => (value && typeof value === "object" ? JSON.stringify(value) : String(value));
  return [
    stages.length ? table(["stage", "seconds", "what it counted"], stages.map((one) => [words(one.stage), known(one.seconds) ? one.seconds.toFixed(1) : ABSENT, inline(one.counts || {}) || "–"]),
      { numeric: [1], label: "Stages" }) : absent("No stage has finished yet."),
    h("p", { class: "note" }, versions.length ? `Versions: ${versions.map(([name, value]) => `${name} ${value}`).join(" · ")}` : "Versions: not recorded."),
    files.length > 0 && h("details", { class: "block" }, h("summary", {}, "Files and their hashes"), table(["stage", "side", "file", "sha256"], files)),
    settings.length > 0 && h("details", { class: "block" }, h("summary", {}, `All settings (${changed.length} not at ${changed.length === 1 ? "its default" : "their defaults"})`),
      table(["setting", "value", "meaning"], settings.map((one) => [h("code", {}, one.key), one.changed ? h("strong", {}, shown(one.value)) : shown(one.value), one.about || ""]))),
  ];
}
