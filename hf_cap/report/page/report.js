"use strict";
// The example browser. All text comes from the data element and is written with textContent alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [list, rows, readout] = [byId("list"), byId("rows"), byId("readout")];

  const examples = data.examples.map(([set, gold, words, text, scores, before, after, cues, change], id) => {
    const whole = text ?? words.join(" ");
    return { id, set, gold, words, text: whole, scores, before, after, cues, change,
      sought: `${whole}\n${[gold, before?.[0], after?.[0]].map((label) => data.labels[label] ?? "").join("\n")}`.toLowerCase() };
  });
  const row = (kind) => data.rows.findIndex((found) => found.kind === kind);
  const prior = row("prior");
  const models = data.rows.flatMap((found, index) => (found.kind === "attribution" ? [index] : []));
  const sources = data.rows.flatMap((found, index) => (found.kind === "source" ? [index] : []));

  // --- what the orders sort by: the larger, the earlier; -Infinity where it cannot be told
  const cosine = (example, one, other) => {
    const [a, b] = [example.scores[one], example.scores[other]];
    if (!a || !b) return null;
    let [dot, aa, bb] = [0, 0, 0];
    for (let i = 0; i < a.length; i++) { dot += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
    return aa && bb ? dot / Math.sqrt(aa * bb) : 0;
  };
  const apart = (example, pairs) => {
    const found = pairs.map(([one, other]) => cosine(example, one, other)).filter((value) => value !== null);
    return found.length ? 1 - found.reduce((sum, value) => sum + value, 0) / found.length : -Infinity;
  };
  const last = models.at(-1) ?? -1;
  const sourcePairs = sources.flatMap((one, i) => sources.slice(i + 1).map((other) => [one, other]));
  const said = (example) => example.after ?? example.before;
  const right = (example, prediction) => prediction?.[0] === example.gold;
  const both = (example) => example.before && example.after;
  const changed = (example) => both(example) && example.before[0] !== example.after[0];
  const fixed = (example) => both(example) && !right(example, example.before) && right(example, example.after);
  const ORDERS = {
    changed: (example) => example.change ?? -Infinity,
    given: (example) => -example.id,
    prior: (example) => apart(example, [[prior, last]]),
    sources: (example) => apart(example, sourcePairs),
    unsure: (example) => (said(example) ? -said(example)[1] : -Infinity),
  };
  const OUTCOMES = {
    all: () => true,
    right: (example) => said(example) && right(example, said(example)),
    wrong: (example) => said(example) && !right(example, said(example)),
    changed, fixed,
    broken: (example) => both(example) && right(example, example.before) && !right(example, example.after),
  };

  // --- small makers
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const bdi = (text) => make("bdi", { textContent: text });
  const percent = (thousandths) => `${(thousandths / 10).toFixed(0)} %`;
  const largest = (scores) => scores.reduce((most, score) => Math.max(most, Math.abs(score)), 0) || 1;
  const written = (number) => {
    const text = number === 0 ? "0" : Math.abs(number) < 0.001 ? Math.abs(number).toExponential(1) : Math.abs(number).toPrecision(3);
    return (number > 0 ? "+" : number < 0 ? "\u2212" : "") + text;
  };
  const verdict = (example, prediction) => make("span", { className: right(example, prediction) ? "ok" : "bad" },
    right(example, prediction) ? "✓ " : "✗ ", bdi(data.labels[prediction[0]]), ` ${percent(prediction[1])}`);

  // --- the list
  const items = examples.map((example) => {
    const meta = make("span", { className: "line meta" }, bdi(data.labels[example.gold]));
    if (said(example)) meta.append(right(example, said(example)) ? " ✓" : " ✗ ", right(example, said(example)) ? "" : bdi(data.labels[said(example)[0]]));
    const item = make("li", { id: `example-${example.id}` },
      make("span", { className: "line", dir: "auto", textContent: example.text.slice(0, 160) }), meta);
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    return item;
  });
  let shown = examples;
  let current = null;
  let word = -1;

  const apply = () => {
    const sought = byId("search").value.trim().toLowerCase();
    const [set, label] = [byId("set").value, byId("label").value];
    const outcome = OUTCOMES[byId("outcome").value];
    const rank = ORDERS[byId("order").value];
    const found = examples.filter((example) =>
      (!sought || example.sought.includes(sought)) && (set === "" || example.set === +set) &&
      (label === "" || example.gold === +label) && outcome(example));
    const ranks = new Map(found.map((example) => [example, rank(example)]));
    shown = found.sort((a, b) => (ranks.get(a) === ranks.get(b) ? a.id - b.id : ranks.get(b) - ranks.get(a)));
    list.replaceChildren(...shown.map((example) => items[example.id]));
    select(shown.includes(current) && byId("order").value === "given" ? current : shown[0] ?? null);
  };

  const select = (example) => {
    if (current) items[current.id].setAttribute("aria-selected", "false");
    current = example;
    word = -1;
    const place = shown.indexOf(example);
    byId("count").textContent = example ? `${place + 1} of ${shown.length} examples` : "No example fits these filters.";
    if (example) {
      items[example.id].setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", items[example.id].id);
      reveal(items[example.id]);
    } else list.removeAttribute("aria-activedescendant");
    draw();
  };
  // scrollIntoView would move the page as well
  const reveal = (item) => {
    const [top, bottom] = [item.offsetTop - list.offsetTop, item.offsetTop - list.offsetTop + item.offsetHeight];
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  };
  const step = (by) => {
    const next = shown[shown.indexOf(current) + by];
    if (next) select(next);
  };

  // --- one example
  const draw = () => {
    const example = current;
    byId("detail-title").replaceChildren(...(example ? [bdi(data.labels[example.gold]), " ", make("small", {}, "gold label · ", bdi(data.sets[example.set]))] : []));
    byId("verdict").replaceChildren(...(example ? verdicts(example) : []));
    const view = byId("view").value;
    rows.className = view;
    rows.replaceChildren(...(example ? (view === "table" ? [table(example)] : allRows(example)) : []));
    readout.replaceChildren();
  };
  const verdicts = (example) => [["before", example.before], ["after", example.after]].flatMap(([when, prediction], index) =>
    prediction ? [make("div", {}, make("small", {}, bdi(modelName(when, index))), verdict(example, prediction))] : []);
  const modelName = (when, index) => {
    const found = models.length > 1 ? models[index] : last;
    return found >= 0 ? data.rows[found].name : `model ${when} alignment`;
  };
  const wordNode = (example, scores, most, index) => {
    const number = scores[index];
    const node = make("span", { className: `w${number > 0 ? " for" : number < 0 ? " against" : ""}`, title: written(number) }, example.words[index]);
    node.dataset.word = index;
    node.dataset.value = written(number);
    node.style.setProperty("--a", Math.abs(number) / most);
    const cued = example.cues.filter(([, words]) => words.includes(index)).map(([label]) => data.labels[label]);
    if (cued.length) {
      node.classList.add("cue");
      node.title += `, found shortcut of ${cued.join(", ")}`;
    }
    node.setAttribute("role", "listitem");
    node.setAttribute("aria-label", `${example.words[index]}: ${written(number)}`);
    return node;
  };
  const NOTES = [["Priors, for the gold label", (kind) => kind !== "attribution"],
    ["Models, for the label that each predicts", (kind) => kind === "attribution"]];
  const allRows = (example) => NOTES.flatMap(([textContent, fits]) => {
    const found = data.rows.map((_, index) => index).filter((index) => fits(data.rows[index].kind));
    const scored = found.filter((index) => example.scores[index]);
    const missing = make("p", { className: "missing", textContent: "no scores for this text" });
    return found.length ? [make("p", { className: "kind", textContent }), ...(scored.length ? scored.map((index) => drawRow(example, index)) : [missing])] : [];
  });
  const drawRow = (example, index) => {
    const { name } = data.rows[index];
    const head = make("h4", {}, bdi(name));
    const words = make("div", { className: "words", dir: "auto" });
    words.setAttribute("role", "list");
    words.setAttribute("aria-label", `${name}: score of each word`);
    const most = largest(example.scores[index]);
    let from = 0;
    example.words.forEach((text, number) => {
      const start = example.text.indexOf(text, from);
      if (start > from) words.append(example.text.slice(from, start));
      words.append(wordNode(example, example.scores[index], most, number));
      from = Math.max(from, start + text.length);
    });
    return make("div", { className: "row" }, head, words);
  };
  const table = (example) => {
    const used = data.rows.map((_, index) => index).filter((index) => example.scores[index]);
    const most = example.scores.map((scores) => scores && largest(scores));
    const head = (tag, scope, ...content) => { const cell = make(tag, {}, ...content); cell.setAttribute("scope", scope); return cell; };
    const body = example.words.map((text, number) => make("tr", {}, head("th", "row", bdi(text)),
      ...used.map((index) => {
        const node = wordNode(example, example.scores[index], most[index], number);
        node.textContent = node.dataset.value;
        node.removeAttribute("role");
        node.removeAttribute("aria-label");
        return make("td", {}, node);
      })));
    const top = make("tr", {}, head("th", "col", "word"), ...used.map((index) => head("th", "col", bdi(data.rows[index].name))));
    return make("div", { className: "scroll" }, make("table", { className: "scores" }, make("thead", {}, top), make("tbody", {}, ...body)));
  };

  // --- one word
  const point = (index) => {
    if (!current || index < 0 || index >= current.words.length) return;
    word = index;
    for (const node of rows.querySelectorAll(".at")) node.classList.remove("at");
    for (const node of rows.querySelectorAll(`[data-word="${index}"]`)) node.classList.add("at");
    const values = data.rows.flatMap(({ name }, number) =>
      current.scores[number] ? [make("span", {}, bdi(name), ` ${written(current.scores[number][index])}`)] : []);
    readout.replaceChildren(make("q", { dir: "auto", textContent: current.words[index] }), ...values);
  };

  // --- events
  const options = (select, names, all) => select.append(make("option", { value: "", textContent: all }),
    ...names.map(([name, number]) => make("option", { value: number, textContent: name })));
  options(byId("set"), data.sets.map((name, number) => [name, number]), "all");
  const labels = [...new Set(examples.map((example) => example.gold))].map((label) => [data.labels[label], label]);
  options(byId("label"), labels.sort(([a], [b]) => a.localeCompare(b)), "all");
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", apply);
  for (const id of ["set", "label", "outcome", "order"]) byId(id).addEventListener("change", apply);
  byId("view").addEventListener("change", draw);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  list.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (item) select(examples[+item.id.slice("example-".length)]);
  });
  for (const kind of ["pointerover", "click"]) rows.addEventListener(kind, (event) => {
    const node = event.target.closest("[data-word]");
    if (node) point(+node.dataset.word);
  });

  const KEYS = {
    j: () => step(1), k: () => step(-1),
    ArrowRight: () => point(word + 1), ArrowLeft: () => point(Math.max(word - 1, 0)),
    "/": () => byId("search").focus(),
    v: () => { const view = byId("view"); view.selectedIndex = (view.selectedIndex + 1) % view.length; draw(); },
  };
  const LIST_KEYS = { ArrowDown: () => step(1), ArrowUp: () => step(-1),
    Home: () => select(shown[0] ?? null), End: () => select(shown.at(-1) ?? null) };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select, textarea");
    if (typing && event.key === "Escape") event.target.blur();
    const action = typing ? null : (event.target === list && LIST_KEYS[event.key]) || KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  apply();
})();
