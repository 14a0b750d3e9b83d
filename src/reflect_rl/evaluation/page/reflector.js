// The reflector beside its teacher: agreement, and examples with the words marked that differ.

function reflectorSection(data) {
  if (!data) return absent("Not measured: this run has no local reflector.");
  const examples = list(data.examples);
  const nodes = examples.map(example);
  const first = 4;
  const hidden = nodes.slice(first);
  const host = h("div", { class: "examples" }, nodes.slice(0, first));
  const more = hidden.length > 0 && h("button", { type: "button", class: "more", onclick: (event) => {
    host.append(...hidden);
    event.target.remove();
  } }, `Show ${hidden.length} more`);
  const differing = examples.filter((one) => !one.same).length;
  return [
    h("dl", { class: "facts" }, [
      ["kind", data.kind || ABSENT], ["same as the teacher", percent(data.agreement)],
      ["95 % interval", (known(data.agreement) && interval(data.agreement_interval)) || ABSENT], ["held-out states", count(data.held_out)],
    ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    examples.length
      ? [h("p", { class: "note" }, `${examples.length} of ${count(data.examples_total)} examples, ${differing ? "those that differ first" : "none of which differs"}. `
        + "Marked: words that only one of the two texts has."), host, more]
      : absent("No examples were kept."),
  ];
}

function example(one) {
  const [left, right] = difference(String(one.teacher ?? ""), String(one.text ?? ""));
  return h("article", { class: `example ${one.same ? "same" : "differs"}` },
    h("div", {}, h("h3", {}, "Teacher"), h("p", {}, left)),
    h("div", {}, h("h3", {}, "Reflector", h("em", { class: `tag ${one.same ? "good" : "bad"}` }, one.same ? "same" : "differs")), h("p", {}, right)),
    one.prompt && h("details", {}, h("summary", {}, "Prompt"), h("pre", { tabindex: "0" }, one.prompt)));
}

// Both texts as pieces; a word outside their longest common subsequence is marked.
function difference(a, b) {
  if (a === b) return [a, b];
  const [left, right] = [a.split(/(\s+)/).slice(0, 400), b.split(/(\s+)/).slice(0, 400)];
  const best = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      best[i][j] = left[i] === right[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    }
  }
  const pieces = [[], []];
  const mark = (side, word) => pieces[side].push(word.trim() ? h("mark", {}, word) : word);
  let [i, j] = [0, 0];
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      pieces[0].push(left[i++]);
      pieces[1].push(right[j++]);
    } else if (j >= right.length || (i < left.length && best[i + 1][j] >= best[i][j + 1])) mark(0, left[i++]);
    else mark(1, right[j++]);
  }
  return pieces;
}
