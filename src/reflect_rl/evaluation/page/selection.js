// Which states the teacher was asked about: a map of the pool, and the objective pick by pick.

const EMBEDDINGS = { words: "words and word pairs (TF-IDF)", cells: "characters and places (TF-IDF)" };
const REACH = 24; // pixels within which a point answers to the pointer

function selectionSection(data) {
  return [
    h("dl", { class: "facts" }, [
      ["strategy", data.strategy ?? ABSENT], ["states compared by", EMBEDDINGS[data.embedding] ?? data.embedding ?? ABSENT],
      ["pool", known(data.pool) ? `${count(data.pool)} states, ${count(data.distinct)} distinct` : ABSENT],
      ["budget", known(data.budget) ? `${count(data.budget)} reflections` : ABSENT],
      ["picked", count(data.picked) + (known(data.distinct) ? ` (${percent(data.picked / data.distinct)} of distinct)` : "")],
    ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    data.map ? poolMap(data) : absent("No map: selection_map.jsonl is not in the run's folder."),
    objective(data),
  ];
}

function objective({ strategy, picked, objective: reached, certificate, curve }) {
  if (strategy === "random") return h("p", { class: "note" }, "No curve: a random choice optimises nothing, so its picks have no gain and nothing bounds them.");
  if (!curve.length) return absent(`No curve: it is not known what ${strategy || "this strategy"} optimises.`);
  const radius = strategy === "k-center";
  const bounded = known(reached) && known(certificate);
  const xs = curve.map(([number]) => number);
  const series = [{ name: radius ? "radius" : "reached", tone: "accent", ys: curve.map(([, value]) => value) }];
  if (bounded) series.push({ name: `${radius ? "least" : "most"} that any ${count(picked)} picks could reach`, tone: "bad", dashed: true, ys: xs.map(() => certificate) });
  const plain = radius
    ? [`The state farthest from all picks is at distance ${figure(reached)} from the nearest of them.`,
      bounded && (certificate > 0 ? ` No choice of ${count(picked)} states has a radius below ${figure(certificate)}, so this one is at most ${fixed(reached / certificate)} times the smallest.`
        : ` No bound above 0 is known for ${count(picked)} states.`)]
    : [bounded && `${percent(reached / certificate)} of what any choice of ${count(picked)} states could reach: ${figure(reached)} of at most ${figure(certificate)}.`,
      " A state is represented by the pick most similar to it; drawn is the mean of that similarity over the pool, from 0 (opposite) over 0.5 (nothing in common) to 1 (equal)."];
  return h("div", { class: "objective" },
    lineChart({ title: radius ? "Radius" : "Representation", xs, series, xName: "picks", zero: radius,
      note: radius ? "largest distance of a state from its nearest pick" : "of the pool by the picks",
      unit: radius ? "distance of unit vectors, 0 to 2" : "mean similarity to the nearest pick" }),
    h("p", { class: "plain" }, plain));
}

// The picture, and beside it the state that is pointed at.
function poolMap({ map, picked, distinct, strategy }) {
  const indices = map.x.map((_, i) => i).filter((i) => known(map.x[i]) && known(map.y[i]));
  const picks = indices.filter((i) => known(map.rank[i]));
  const detail = h("div", { class: "detail", "aria-live": "polite" });
  const state = { at: -1, show(i) {
    this.at = i;
    const text = map.texts[i]?.map((line) => map.lines[line]).join("\n");
    detail.replaceChildren(h("h3", {}, known(map.rank[i]) && swatchOf(map.rank[i], picked), pointName(map, i, picked)), h("p", { class: "note" }, gainOf(map, i, strategy)),
      text === undefined ? absent("There was no room on this page for the text; selection_map.jsonl holds it.") : h("pre", { class: "observation", tabindex: "0" }, text));
  } };
  if (indices.length) state.show(indices[0]);
  const [first, second] = map.variance;
  const notes = [
    known(first) && known(second) && `The two axes hold ${percent(first + second)} of the variance of the embeddings, so states that are close here may differ in what is not shown.`,
    indices.length < distinct && `${count(picks.length)} of the ${count(picked)} picks and ${count(indices.length - picks.length)} of the ${count(distinct - picked)} other states are drawn, evenly spaced.`];
  return h("div", { class: "pool" },
    h("div", {},
      chart("Map of the pool", "principal components of the embeddings; arrow keys go from pick to pick", (width) => scatter(width, map, indices, picked, state)),
      h("ul", { class: "legend" },
        h("li", {}, "picked, rank 1", h("i", { class: "ramp", "aria-hidden": "true" }), count(picked)),
        indices.length > picks.length && h("li", {}, h("i", { class: "swatch hollow", "aria-hidden": "true" }), "not picked")),
      h("p", { class: "note" }, notes.filter(Boolean).join(" "))),
    detail);
}

const pointName = (map, i, picked) => (known(map.rank[i]) ? `Pick ${count(map.rank[i] + 1)} of ${count(picked)}` : "Not picked");

function gainOf(map, i, strategy) {
  if (!known(map.rank[i])) return "no gain: the budget was spent before its turn";
  if (strategy === "random") return "no gain: chosen at random";
  if (!known(map.gain[i])) return "no gain: the first pick, far from nothing yet";
  return strategy === "k-center" ? `distance ${figure(map.gain[i])} from all picks before it` : `adds ${figure(map.gain[i])} to the mean similarity`;
}

// Three colours whose lightness runs one way, so that the order is seen without telling hues apart.
function rankColour(rank, picked) {
  const share = picked > 1 ? (200 * rank) / (picked - 1) : 0;
  return share < 100 ? `color-mix(in oklab, var(--middle) ${share.toFixed(1)}%, var(--early))` : `color-mix(in oklab, var(--late) ${(share - 100).toFixed(1)}%, var(--middle))`;
}

const swatchOf = (rank, picked) => h("i", { class: "swatch round", style: `--tone: ${rankColour(rank, picked)}`, "aria-hidden": "true" });

// One scale for both axes, so that distances are what they are.
function scatter(width, map, indices, picked, state) {
  const [xs, ys] = [map.x, map.y].map((values) => indices.map((i) => values[i]));
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const box = { left: 26, right: width - 12, top: 12 };
  const [wide, tall] = [right - left || 1, high - low || 1];
  const room = box.right - box.left;
  const inner = Math.min(Math.max(room * (tall / wide), room * 0.5), room * 0.8);
  const scale = Math.min(room / wide, inner / tall);
  const bottom = box.top + inner;
  const x = (i) => (box.left + box.right) / 2 + (map.x[i] - (left + right) / 2) * scale;
  const y = (i) => (box.top + bottom) / 2 - (map.y[i] - (low + high) / 2) * scale;
  const share = (value) => (known(value) ? ` · ${percent(value)} of the variance` : "");
  const height = bottom + 32;
  const root = svg("svg", { width, height, class: "map", tabindex: "0", role: "img",
    "aria-label": `Map of the pool: ${count(picked)} picked states and those not picked` },
    svg("line", { class: "axis", x1: box.left - 12, x2: box.right, y1: bottom + 12, y2: bottom + 12 }),
    svg("line", { class: "axis", x1: box.left - 12, x2: box.left - 12, y1: box.top, y2: bottom + 12 }),
    svg("text", { class: "axis-name", x: box.right, y: height - 3, "text-anchor": "end" }, `first axis${share(map.variance[0])}`),
    svg("text", { class: "axis-name", transform: `translate(9,${box.top}) rotate(-90)`, "text-anchor": "end" }, `second axis${share(map.variance[1])}`));
  // Early picks are drawn last, on top.
  for (const i of [...indices].reverse()) {
    const at = { cx: x(i).toFixed(1), cy: y(i).toFixed(1) };
    root.append(known(map.rank[i]) ? svg("circle", { class: "pick", ...at, r: width < 480 ? 3 : 4, style: `fill: ${rankColour(map.rank[i], picked)}` }) : svg("circle", { class: "rest", ...at, r: 2.5 }));
  }
  const ring = svg("circle", { class: "ring", r: 8 });
  root.append(ring);
  const mark = () => { ring.setAttribute("cx", x(state.at)); ring.setAttribute("cy", y(state.at)); };
  const show = (i) => { state.show(i); mark(); };
  if (state.at >= 0) mark();
  root.addEventListener("pointermove", (event) => {
    const place = root.getBoundingClientRect();
    const distance = (i) => Math.hypot(x(i) - (event.clientX - place.left), y(i) - (event.clientY - place.top));
    let [nearest, least] = [-1, REACH];
    for (const i of indices) if (distance(i) < least) [nearest, least] = [i, distance(i)];
    if (nearest >= 0 && nearest !== state.at) show(nearest);
  });
  root.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(indices[Math.max(0, Math.min(indices.length - 1, indices.indexOf(state.at) + move))]);
  });
  return root;
}
