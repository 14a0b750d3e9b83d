// Puts the page together from its data.

const DATA = JSON.parse(document.getElementById("data").textContent);

function header(kicker, title, facts, sections) {
  document.getElementById("top").append(
    h("p", { class: "kicker" }, kicker), h("h1", {}, title), h("p", { class: "lead" }, facts.filter(Boolean).join(" · ")),
    sections.length > 1 && h("nav", { "aria-label": "Sections" }, sections.map((one) =>
      h("a", { href: `#${one.id}` }, one.querySelector("h2").textContent))) || "");
  document.getElementById("main").append(...sections);
}

function runPage(data) {
  const { results } = data;
  const episodes = data.episodes;
  const sections = [
    section("result", "Result", null, resultSection(data)),
    data.guard && section("guard", "Guard", "The run was also trained without reflection; the better on validation starts was kept.", pairs(data.guard)),
    section("episodes", "Episodes", episodes && `${episodes.shown.length} of ${count(episodes.total)} recorded evaluation episodes, step by step. `
      + "Dots under the slider: steps where the agent differs from the expert.",
    episodes ? viewer(episodes) : absent("Not recorded: the run has not been evaluated yet.")),
    section("learning", "Learning", null, curvesSection(data)),
    section("reflector", "Reflector", "What the reflector writes on held-out states, beside its teacher.", reflectorSection(data.reflector)),
    data.compare && section("comparison", "Comparison", null, compareSections(data.compare)),
    data.selection && section("selection", "Selection", "Which of the collected states the teacher was asked about, chosen before any had a label.", selectionSection(data.selection)),
    section("time", "Where time went", null, timeSection(data)),
    section("provenance", "Provenance", null, provenanceSection(data)),
  ].filter(Boolean);
  header("reflect-rl · run", data.name, [`world ${data.env}`, results?.recipe && `recipe ${results.recipe}`, known(results?.seed) && `seed ${results.seed}`,
    known(results?.horizon) && `horizon ${results.horizon}`], sections);
}

function comparePage(data) {
  const { compare } = data;
  const seeds = list(compare.seeds);
  const sections = [section("comparison", "Arms side by side", null, compareSections(compare))];
  if (list(compare.notes).length) sections.push(section("notes", "Notes", null, h("ul", { class: "notes" }, compare.notes.map((note) => h("li", {}, note)))));
  header("reflect-rl · comparison", compare.recipe || data.name, [`horizon ${count(compare.horizon)}`,
    seeds.length > 0 && `${seeds.length} seeds (${seeds.join(", ")})`, `${entries(compare.regimes).length} regimes`], sections);
  if (compare.command) document.getElementById("top").append(h("pre", { class: "command", tabindex: "0" }, compare.command));
}

({ compare: comparePage, labels: labelsPage, rollouts: rolloutsPage }[DATA.kind] || runPage)(DATA);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hide(); });
