// The trajectory viewer: a list of episodes, and one of them step by step.

const MOST_ACTIONS = 12;

function viewer(data) {
  const episodes = list(data.shown).filter((episode) => list(episode.steps).length);
  if (!episodes.length) return absent("None of these episodes has steps, or none is small enough to be shown here; the file holds them all.");
  const state = { episode: 0, step: 0, timer: null, filter: { result: "all", mode: "all" } };
  const passes = (episode) => (state.filter.result === "all" || (state.filter.result === "success") === Boolean(episode.success))
    && (state.filter.mode === "all" || episode.mode === state.filter.mode);

  const chosen = h("ul", { class: "episodes", "aria-label": "Episodes" });
  const stage = h("div", { class: "stage" });
  const slider = h("input", { type: "range", min: "0", "aria-label": "Step", oninput: () => { stop(); go(+slider.value); } });
  const marks = h("div", { class: "marks", "aria-hidden": "true" });
  const where = h("output", { class: "where", "aria-live": "polite" });
  const button = (id, text, label, action) => h("button", { id, type: "button", "aria-label": label, title: label, onclick: action }, text);
  const play = button("play", "Play", "Play or pause (space)", () => toggle());
  const controls = h("div", { class: "controls" },
    button("previous", "←", "Previous step (left arrow)", () => { stop(); go(state.step - 1); }),
    play, button("next", "→", "Next step (right arrow)", () => { stop(); go(state.step + 1); }),
    h("div", { class: "slide" }, slider, marks), where);

  function go(step) {
    const { steps } = episodes[state.episode];
    state.step = Math.max(0, Math.min(steps.length - 1, step));
    slider.max = steps.length - 1;
    slider.value = state.step;
    where.textContent = `step ${state.step + 1} of ${steps.length}`;
    stage.replaceChildren(...showStep(episodes[state.episode], state.step));
  }
  function open(index) {
    state.episode = index;
    for (const node of chosen.querySelectorAll("button")) {
      node.setAttribute("aria-current", node.dataset.index === String(index) ? "true" : "false");
    }
    marks.replaceChildren(...episodes[index].steps.map((step) =>
      h("i", { class: known(step.expert) && step.expert !== step.choice ? "differs" : null })));
    go(0);
  }
  function stop() { clearInterval(state.timer); state.timer = null; play.textContent = "Play"; }
  function toggle() {
    if (state.timer) return stop();
    const last = episodes[state.episode].steps.length - 1;
    if (state.step === last) go(0);
    play.textContent = "Pause";
    state.timer = setInterval(() => { go(state.step + 1); if (state.step === last) stop(); }, 900);
  }
  function fillList() {
    const found = episodes.map((episode, index) => ({ episode, index })).filter(({ episode }) => passes(episode));
    chosen.replaceChildren(...found.map(({ episode, index }) => h("li", {}, h("button",
      { type: "button", "data-index": index, onclick: () => { stop(); open(index); } },
      h("i", { class: `swatch ${STOPS[episode.stop] || "quiet"}`, "aria-hidden": "true" }),
      h("span", { class: "task" }, String(episode.task)),
      h("small", {}, `${words(episode.stop)} · ${episode.mode || "greedy"} · ${episode.steps.length} steps`)))));
    if (!found.length) chosen.append(h("li", { class: "absent" }, "No such episode."));
    else open(found.some(({ index }) => index === state.episode) ? state.episode : found[0].index);
  }
  function choice(name, values) {
    return h("div", { class: "choices", role: "group", "aria-label": name }, values.map((value) =>
      h("button", { type: "button", "aria-pressed": String(value === "all"), onclick: (event) => {
        stop();
        state.filter[name] = value;
        for (const node of event.target.parentNode.children) node.setAttribute("aria-pressed", String(node === event.target));
        fillList();
      } }, value)));
  }
  function keys(event) {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea")) return;
    const box = root.getBoundingClientRect();
    if (box.bottom < 0 || box.top > innerHeight) return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") { stop(); go(state.step + (event.key === "ArrowLeft" ? -1 : 1)); }
    else if (event.key === " " && !event.target.closest("button, summary, a")) toggle();
    else if ((event.key === "ArrowUp" || event.key === "ArrowDown") && event.target.closest(".episodes")) {
      const buttons = [...chosen.querySelectorAll("button")];
      buttons[buttons.indexOf(event.target) + (event.key === "ArrowUp" ? -1 : 1)]?.focus();
    } else return;
    event.preventDefault();
  }

  const modes = [...new Set(episodes.map((episode) => episode.mode).filter(Boolean))];
  const root = h("div", { class: "viewer" },
    h("div", { class: "side" }, choice("result", ["all", "success", "failure"]), modes.length > 1 && choice("mode", ["all", ...modes]), chosen),
    h("div", { class: "view" }, controls, stage));
  document.addEventListener("keydown", keys);
  fillList();
  return root;
}

function showStep(episode, index) {
  const step = episode.steps[index];
  const actions = list(step.actions);
  const running = sum(episode.steps.slice(0, index + 1).map((one) => one.reward));
  const ended = index === episode.steps.length - 1;
  const previous = index ? episode.steps[index - 1].observation : null;
  return [
    h("div", { class: "world" }, h("h3", {}, "Observation"), h("pre", { class: "observation", tabindex: "0" }, changed(step.observation, previous))),
    h("div", { class: "mind" },
      h("h3", {}, "Reflection"),
      step.reflection ? h("blockquote", { class: "reflection" }, step.reflection)
        : h("p", { class: "reflection absent" }, step.reflection === "" ? "The reflector wrote nothing." : "This agent acts without reflection."),
      step.said && [h("h3", {}, "Answer"), h("pre", { class: "said" }, step.said)],
      step.invalid && h("p", { class: "note" }, "The answer names no admissible action: the first one was taken."),
      h("h3", {}, "Action probabilities"), probabilities(step, actions)),
    h("dl", { class: "outcome" },
      [["action", actions[step.choice] ?? ABSENT], ["reward", fixed(step.reward)], ["return so far", fixed(running)]].map(([name, value]) =>
        h("div", {}, h("dt", {}, name), h("dd", {}, value))),
      h("div", {}, h("dt", {}, "episode"), h("dd", { class: ended ? `stop ${STOPS[episode.stop] || "quiet"}` : "stop" },
        ended ? `ends: ${words(episode.stop)}` : "goes on"))),
  ];
}

function probabilities(step, actions) {
  const shares = list(step.probabilities);
  const special = (i) => i === step.choice || i === step.expert;
  const ranked = actions.map((_, i) => i).sort((a, b) => special(b) - special(a) || (shares[b] || 0) - (shares[a] || 0));
  const kept = new Set(actions.length > MOST_ACTIONS ? ranked.slice(0, MOST_ACTIONS) : ranked);
  const rows = actions.map((name, i) => {
    if (!kept.has(i)) return null;
    const bar = h("span", { class: `fill ${i === step.choice ? "accent" : "quiet"}` });
    bar.style.width = `${100 * (shares[i] || 0)}%`;
    return h("li", { class: i === step.choice ? "chosen" : null, "data-action": i },
      h("span", { class: "name" }, name), h("span", { class: "track" }, bar),
      h("span", { class: "number" }, known(shares[i]) ? percent(shares[i]) : "–"),
      h("span", { class: "tags" }, i === step.choice && h("em", { class: "tag chosen" }, "chosen"),
        i === step.expert && h("em", { class: "tag expert" }, "expert")));
  });
  return [h("ul", { class: "bars actions" }, rows),
    kept.size < actions.length && h("p", { class: "note" }, `${actions.length - kept.size} less likely actions are not shown.`)];
}

// The observation, with the characters marked that differ from the step before (texts of the same shape only).
function changed(now, before) {
  const [lines, old] = [String(now).split("\n"), String(before ?? "").split("\n")];
  if (before === null || lines.length !== old.length) return String(now);
  return lines.flatMap((line, i) => {
    const end = i < lines.length - 1 ? "\n" : "";
    if (line === old[i] || line.length !== old[i].length) return [line + end];
    const pieces = [];
    for (const [at, letter] of [...line].entries()) {
      const differs = letter !== [...old[i]][at];
      if (pieces.length && pieces.at(-1).differs === differs) pieces.at(-1).text += letter;
      else pieces.push({ differs, text: letter });
    }
    return [...pieces.map((piece) => (piece.differs ? h("mark", {}, piece.text) : piece.text)), end];
  });
}
