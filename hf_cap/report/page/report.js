"use strict";
// The example browser. All text comes from the data element and is written with textContent alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [list, lanes, readout] = [byId("list"), byId("lanes"), byId("readout")];

  const rows = data.rows.map(([set, gold, words, text, scores, before, after], id) => {
    const whole = text ?? words.join(" ");
    return { id, set, gold, words, text: whole, scores, before, after,
      sought: `${whole}\n${[gold, before?.[0], after?.[0]].map((label) => data.labels[label] ?? "").join("\n")}`.toLowerCase() };
  });
  const lane = (kind) => data.lanes.findIndex((found) => found.kind === kind);
  const prior = lane("prior");
  const models = data.lanes.flatMap((found, index) => (found.kind === "attribution" ? [index] : []));
  const sources = data.lanes.flatMap((found, index) => (found.kind === "source" ? [index] : []));

  // --- what the orders sort by: the larger, the earlier; -Infinity where it cannot be told
  const cosine = (row, one, other) => {
    const [a, b] = [row.scores[one], row.scores[other]];
    if (!a || !b) return null;
    let [dot, aa, bb] = [0, 0, 0];
    for (let i = 1; i < a.length; i++) { dot += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
    return aa && bb ? dot / Math.sqrt(aa * bb) : 0;
  };
  const apart = (row, pairs) => {
    const found = pairs.map(([one, other]) => cosine(row, one, other)).filter((value) => value !== null);
    return found.length ? 1 - found.reduce((sum, value) => sum + value, 0) / found.length : -Infinity;
  };
  const last = models.at(-1) ?? -1;
  const sourcePairs = sources.flatMap((one, i) => sources.slice(i + 1).map((other) => [one, other]));
  const said = (row) => row.after ?? row.before;
  const ORDERS = {
    given: (row) => -row.id,
    shift: (row) => (models.length > 1 ? apart(row, [models]) : -Infinity),
    prior: (row) => apart(row, [[prior, last]]),
    sources: (row) => apart(row, sourcePairs),
    unsure: (row) => (said(row) ? -said(row)[1] : -Infinity),
  };
  const right = (row, prediction) => prediction?.[0] === row.gold;
  const both = (row) => row.before && row.after;
  const OUTCOMES = {
    all: () => true,
    right: (row) => said(row) && right(row, said(row)),
    wrong: (row) => said(row) && !right(row, said(row)),
    changed: (row) => both(row) && row.before[0] !== row.after[0],
    fixed: (row) => both(row) && !right(row, row.before) && right(row, row.after),
    broken: (row) => both(row) && right(row, row.before) && !right(row, row.after),
  };

  // --- small makers
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const bdi = (text) => make("bdi", { textContent: text });
  const percent = (thousandths) => `${(thousandths / 10).toFixed(0)} %`;
  const value = (scores, index) => (scores[0] * scores[index + 1]) / data.steps;
  const written = (number) => {
    const text = number === 0 ? "0" : Math.abs(number) < 0.001 ? Math.abs(number).toExponential(1) : Math.abs(number).toPrecision(3);
    return (number > 0 ? "+" : number < 0 ? "\u2212" : "") + text;
  };
  const verdict = (row, prediction) => make("span", { className: right(row, prediction) ? "ok" : "bad" },
    right(row, prediction) ? "✓ " : "✗ ", bdi(data.labels[prediction[0]]), ` ${percent(prediction[1])}`);

  // --- the list
  const items = rows.map((row) => {
    const meta = make("span", { className: "line meta" }, bdi(data.labels[row.gold]));
    if (said(row)) meta.append(right(row, said(row)) ? " ✓" : " ✗ ", right(row, said(row)) ? "" : bdi(data.labels[said(row)[0]]));
    const item = make("li", { id: `example-${row.id}` },
      make("span", { className: "line", dir: "auto", textContent: row.text.slice(0, 160) }), meta);
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    return item;
  });
  let shown = rows;
  let current = null;
  let word = -1;

  const apply = () => {
    const sought = byId("search").value.trim().toLowerCase();
    const [set, label] = [byId("set").value, byId("label").value];
    const outcome = OUTCOMES[byId("outcome").value];
    const rank = ORDERS[byId("order").value];
    const found = rows.filter((row) =>
      (!sought || row.sought.includes(sought)) && (set === "" || row.set === +set) &&
      (label === "" || row.gold === +label) && outcome(row));
    const ranks = new Map(found.map((row) => [row, rank(row)]));
    shown = found.sort((a, b) => (ranks.get(a) === ranks.get(b) ? a.id - b.id : ranks.get(b) - ranks.get(a)));
    list.replaceChildren(...shown.map((row) => items[row.id]));
    select(shown.includes(current) && byId("order").value === "given" ? current : shown[0] ?? null);
  };

  const select = (row) => {
    if (current) items[current.id].setAttribute("aria-selected", "false");
    current = row;
    word = -1;
    const place = shown.indexOf(row);
    byId("count").textContent = row ? `${place + 1} of ${shown.length} examples` : "No example fits these filters.";
    if (row) {
      items[row.id].setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", items[row.id].id);
      reveal(items[row.id]);
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
    const row = current;
    byId("detail-title").replaceChildren(...(row ? [bdi(data.labels[row.gold]), " ", make("small", {}, "gold label · ", bdi(data.sets[row.set]))] : []));
    byId("verdict").replaceChildren(...(row ? verdicts(row) : []));
    const view = byId("view").value;
    lanes.className = view;
    lanes.replaceChildren(...(row ? (view === "table" ? [table(row)] : allLanes(row)) : []));
    readout.replaceChildren();
  };
  const verdicts = (row) => [["before", row.before], ["after", row.after]].flatMap(([when, prediction], index) =>
    prediction ? [make("div", {}, make("small", {}, bdi(modelName(when, index))), verdict(row, prediction))] : []);
  const modelName = (when, index) => {
    const found = models.length > 1 ? models[index] : last;
    return found >= 0 ? data.lanes[found].name : `model ${when} alignment`;
  };
  const wordNode = (row, scores, index) => {
    const number = value(scores, index);
    const node = make("span", { className: `w${number > 0 ? " for" : number < 0 ? " against" : ""}`, title: written(number) }, row.words[index]);
    node.dataset.word = index;
    node.dataset.value = written(number);
    node.style.setProperty("--a", Math.abs(scores[index + 1]) / data.steps);
    node.setAttribute("role", "listitem");
    node.setAttribute("aria-label", `${row.words[index]}: ${written(number)}`);
    return node;
  };
  const allLanes = (row) => data.lanes.flatMap(({ note }, index) => [
    ...(note === data.lanes[index - 1]?.note ? [] : [make("p", { className: "kind", textContent: note })]), drawLane(row, index)]);
  const drawLane = (row, index) => {
    const { name } = data.lanes[index];
    const head = make("h4", {}, bdi(name));
    if (!row.scores[index]) return make("div", { className: "lane" }, head, make("p", { className: "missing", textContent: "no scores for this text" }));
    const words = make("div", { className: "words", dir: "auto" });
    words.setAttribute("role", "list");
    words.setAttribute("aria-label", `${name}: score of each word`);
    let from = 0;
    row.words.forEach((text, number) => {
      const start = row.text.indexOf(text, from);
      if (start > from) words.append(row.text.slice(from, start));
      words.append(wordNode(row, row.scores[index], number));
      from = Math.max(from, start + text.length);
    });
    return make("div", { className: "lane" }, head, words);
  };
  const table = (row) => {
    const used = data.lanes.map((_, index) => index).filter((index) => row.scores[index]);
    const head = (tag, scope, ...content) => { const cell = make(tag, {}, ...content); cell.setAttribute("scope", scope); return cell; };
    const body = row.words.map((text, number) => make("tr", {}, head("th", "row", bdi(text)),
      ...used.map((index) => {
        const node = wordNode(row, row.scores[index], number);
        node.textContent = node.dataset.value;
        node.removeAttribute("role");
        node.removeAttribute("aria-label");
        return make("td", {}, node);
      })));
    const top = make("tr", {}, head("th", "col", "word"), ...used.map((index) => head("th", "col", bdi(data.lanes[index].name))));
    return make("div", { className: "scroll" }, make("table", { className: "scores" }, make("thead", {}, top), make("tbody", {}, ...body)));
  };

  // --- one word
  const point = (index) => {
    if (!current || index < 0 || index >= current.words.length) return;
    word = index;
    for (const node of lanes.querySelectorAll(".at")) node.classList.remove("at");
    for (const node of lanes.querySelectorAll(`[data-word="${index}"]`)) node.classList.add("at");
    const values = data.lanes.flatMap(({ name }, number) =>
      current.scores[number] ? [make("span", {}, bdi(name), ` ${written(value(current.scores[number], index))}`)] : []);
    readout.replaceChildren(make("q", { dir: "auto", textContent: current.words[index] }), ...values);
  };

  // --- events
  const options = (select, names, all) => select.append(make("option", { value: "", textContent: all }),
    ...names.map(([name, number]) => make("option", { value: number, textContent: name })));
  options(byId("set"), data.sets.map((name, number) => [name, number]), "all");
  const labels = [...new Set(rows.map((row) => row.gold))].map((label) => [data.labels[label], label]);
  options(byId("label"), labels.sort(([a], [b]) => a.localeCompare(b)), "all");
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", apply);
  for (const id of ["set", "label", "outcome", "order"]) byId(id).addEventListener("change", apply);
  byId("view").addEventListener("change", draw);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  list.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (item) select(rows[+item.id.slice("example-".length)]);
  });
  for (const kind of ["pointerover", "click"]) lanes.addEventListener(kind, (event) => {
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
