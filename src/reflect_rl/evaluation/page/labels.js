// The study of label efficiency: what random choice reaches, and each strategy's difference from it.

const LABEL_FIGURES = [
  ["loss", "Loss", "nats a token", "Of held-out names, less random's at the same share: below zero is better.", figure],
  ["exact", "Exact matches", "points", "Held-out names written word for word, less random's at the same share: above zero is better.", (share) => (100 * share).toFixed(1)],
];
const byShare = (shares) => entries(shares).sort((a, b) => a[0] - b[0]);

function labelsPage(data) {
  const { labels } = data;
  const chance = labels.strategies.random;
  const others = entries(labels.strategies).filter(([name]) => name !== "random");
  const sections = [section("random", "Random", "What labels picked at random teach, by the share of the pool that is labelled. Means over seeds; bands are 95 % intervals.",
    h("div", { class: "charts" }, LABEL_FIGURES.map(([key, title, unit, , format]) =>
      shareChart(title, chance, key, { unit: key === "exact" ? "%" : unit, format, tone: "quiet" }))))];
  for (const [key, title, unit, note, format] of LABEL_FIGURES) {
    const less = `${key} less random's`;
    const domain = extent(others.flatMap(([, shares]) => entries(shares).flatMap(([, row]) => [row[less].mean, ...list(row[less].interval)])), true);
    sections.push(section(key, title, `${note} Paired by seed; bands are 95 % intervals.`, h("div", { class: "charts" },
      others.map(([name, shares]) => shareChart(name, shares, less, { unit, format, tone: "accent", domain })))));
  }
  sections.push(section("table", "Table", "Labels of random's: the share of the labels that random needs for the same loss.", labelsTable([["random", chance], ...others])));
  header("reflect-rl · label efficiency", "What the labels teach that each strategy picks", [`pool of ${count(labels.pairs)} docstrings`,
    `base model trained on ${count(labels["known before"])} of ${labels.package}`, `${labels.seeds.length} seeds (${labels.seeds.join(", ")})`], sections);
}

function shareChart(name, shares, key, { unit, format, tone, domain }) {
  const rows = byShare(shares);
  const read = (pick) => rows.map(([, row]) => pick(row[key]) ?? null);
  return lineChart({ title: name, note: null, xs: rows.map(([share]) => 100 * share), unit, format, domain, xName: "% of the pool labelled",
    series: [{ name, tone, ys: read((one) => one.mean), low: read((one) => one.interval?.[0]), high: read((one) => one.interval?.[1]) }] });
}

function labelsTable(strategies) {
  const shown = (figures, digits, scale = 1) => (figures ? [fixed(scale * figures.mean, digits),
    figures.interval && h("small", {}, ` ${figures.interval.map((end) => fixed(scale * end, digits)).join(" – ")}`)] : "");
  const rows = strategies.flatMap(([name, shares]) => byShare(shares).map(([share, row]) => [name, percent(+share, 0), count(row.labels), shown(row.loss, 3),
    name === "random" ? "" : shown(row["loss less random's"], 3), shown(row.exact, 1, 100), name === "random" ? "" : shown(row["exact less random's"], 1, 100), shown(row["labels for random's loss"], 2)]));
  return table(["strategy", "share", "labels", "loss", "less random's", "exact, %", "less random's", "labels of random's"], rows,
    { numeric: [1, 2, 3, 4, 5, 6, 7], label: "Every strategy at every share" });
}
