// A page about a file of rollouts, or about the evaluation of an agent on the fixed panels.

function rolloutsPage(data) {
  const { results, episodes, groups } = data;
  const cut = list(groups).length < data.groups_total && `The first ${count(groups.length)} of ${count(data.groups_total)} rows.`;
  const sections = [
    results && section("result", "Result", null, agentSection(results)),
    section("counts", "Episodes by agent and place", cut || null, table(["agent", "place", "episodes", "success", "95 % interval", "return", "steps"],
      list(groups).map((one) => [one.agent, one.place, count(one.episodes), percent(one.success), interval(one.interval) || ABSENT,
        fixed(one.return_mean), fixed(one.steps_mean, 1)]), { numeric: [2, 3, 4, 5, 6], label: "Episodes by agent and place" })),
    section("episodes", "Episodes", `${count(episodes.shown.length)} of ${count(episodes.total)} episodes, spread evenly over the file, step by step.`,
      episodes.total ? viewer(episodes) : absent("The file holds no episode.")),
    results && section("provenance", "Provenance", "What the figures depend on besides the agent.",
      pairs(Object.fromEntries(["options", "option_files", "panel_hashes", "versions"].map((name) => [words(name), results[name]])))),
  ].filter(Boolean);
  header(results ? "reflect-rl · agent" : "reflect-rl · rollouts", results ? results.agent : data.name,
    results ? [`world ${results.world}`, `seed ${results.seed}`, `horizon ${results.horizon}`] : [`${count(episodes.total)} episodes`], sections);
}

function agentSection(results) {
  const modes = entries(results.panels).flatMap(([panel, all]) => entries(all).map(([mode, one]) => [panel, mode, one]));
  const each = (total, one) => (known(total) && one.episodes ? figure(total / one.episodes) : "–");
  const rows = modes.map(([panel, mode, one]) => [PANELS[panel] || words(panel), mode, percent(one.success), interval(one.interval) || ABSENT,
    count(one.episodes), fixed(one.return_mean), fixed(one.steps_mean, 1), one.steps ? percent(one.invalid / one.steps) : "–",
    each(known(one.prompt_tokens) ? one.prompt_tokens + one.completion_tokens : null, one), each(one.usd, one), each(one.seconds, one), split(one.stop_reasons)]);
  const settings = entries(results.prompting).map(([name, value]) => `${words(name)} ${value}`);
  return [
    h("div", { class: "headline" }, h("div", { class: "tiles" }, modes.slice(0, 3).map(([panel, mode, one]) => tile(`${PANELS[panel] || words(panel)}, ${mode}`, one))),
      h("p", { class: "note" }, [`Measured at horizon ${count(results.horizon)}`, ...settings].join(" · "))),
    table(["panel", "mode", "success", "95 % interval", "tasks", "return", "steps", "invalid", "tokens a game", "USD a game", "seconds a game", "why episodes ended"], rows,
      { numeric: [2, 3, 4, 5, 6, 7, 8, 9, 10], label: "Results by panel",
        caption: "Invalid: share of steps whose answer named no admissible action, so that the first one was taken. Seconds: wall time, shared among the games played side by side." }),
    kindsTable(entries(results.panels), `horizon ${count(results.horizon)}`),
  ];
}
