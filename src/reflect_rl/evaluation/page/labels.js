// The study of label efficiency: each strategy beside random, over the share of the pool that is labelled.

const LABEL_FIGURES = [["loss", "Loss", "nats a token", "Of held-out names; lower is better.", figure], ["exact", "Exact matches", "%", "Held-out names written word for word.", (share) => (100 * share).toFixed(1)]];

function labelsPage(data) {
  const { labels } = data;
  const chance = labels.strategies.random;
  const others = entries(labels.strategies).filter(([name]) => name !== "random");
  const sections = LABEL_FIGURES.map(([key, title, unit, note, format]) => section(key, title,
    `${note} Grey: random. Means over seeds; bands are 95 % intervals.`, h("div", { class: "charts" }, others.map(([name, shares]) =>
      labelsChart(name, shares, chance, { key, unit, format, domain: extent(labelValues(labels.strategies, key), false) })))));
  sections.push(section("table", "Table", "Differences from random are paired by seed. Labels of random's: the share of the labels that random needs for the same loss.",
    labelsTable([["random", chance], ...others])));
  header("reflect-rl · label efficiency", "What the labels teach that each strategy picks", [`pool of ${count(labels.pairs)} docstrings`,
    `base model trained on ${count(labels["known before"])} of ${labels.package}`, `${labels.seeds.length} seeds (${labels.seeds.join(", ")})`], sections);
}

function labelValues(strategies, key) {
  return entries(strategies).flatMap(([, shares]) => entries(shares).flatMap(([, row]) => [row[key].mean, ...list(row[key].interval)]));
}

const byShare = (shares) => entries(shares).sort((a, b) => a[0] - b[0]);

function labelsChart(name, shares, chance, { key, unit, format, domain }) {
  const xs = byShare(chance).map(([share]) => 100 * share);
  const line = (title, tone, rows) => {
    const at = byShare(chance).map(([share]) => rows[share]?.[key]);
    return { name: title, tone, joined: true, ys: at.map((one) => one?.mean ?? null), low: at.map((one) => one?.interval?.[0]), high: at.map((one) => one?.interval?.[1]) };
  };
  return lineChart({ title: name, note: null, xs, unit, format, domain, xName: "% of the pool labelled", series: [line(name, "accent", shares), line("random", "quiet", chance)] });
}

function labelsTable(strategies) {
  const shown = (figures, digits, scale = 1) => (figures ? [fixed(scale * figures.mean, digits),
    figures.interval && h("small", {}, ` ${figures.interval.map((end) => fixed(scale * end, digits)).join(" – ")}`)] : "");
  const rows = strategies.flatMap(([name, shares]) => byShare(shares).map(([share, row]) => [name, percent(+share, 0), count(row.labels), shown(row.loss, 3),
    name === "random" ? "" : shown(row["loss less random's"], 3), shown(row.exact, 1, 100), name === "random" ? "" : shown(row["exact less random's"], 1, 100), shown(row["labels for random's loss"], 2)]));
  return table(["strategy", "share", "labels", "loss", "less random's", "exact, %", "less random's", "labels of random's"], rows,
    { numeric: [1, 2, 3, 4, 5, 6, 7], label: "Every strategy at every share" });
}
