// The search page. Everything shown goes in as text, never as HTML: titles come from catalogues.

const at = (id) => document.getElementById(id);
const filters = []; // [{field, value}]
const WINDOWS = {
  real_time: ["Real-time", "the newest clicks"],
  short_term: ["Short-term", "clicks before those, within ten days"],
  click: ["Long-term clicks", "of the twenty days before"],
  buy: ["Long-term purchases", "of the twenty days before"],
  collect: ["Long-term collects", "of the twenty days before"],
  queries: ["Queries", "the newest of the last ten days"],
};
const TAGS = ["brand", "leaf_category", "category", "first_category", "shop", "colour"];
const FIRST_SHOWN = 50;
const WORDS = at("query").placeholder;

function element(name, { text, title, kind, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (title) made.title = title;
  if (kind) made.className = kind;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

async function ask(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The search service does not answer.");
  }
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.message);
  return value;
}

// Searching ---------------------------------------------------------------------------------------

function request() {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const wanted = {};
  for (const { field, value } of filters) (wanted[field] ??= []).push(value);
  if (number("price-min") !== undefined || number("price-max") !== undefined)
    wanted.price = { min: number("price-min"), max: number("price-max") };
  if (at("in-stock").checked) wanted.in_stock = true;
  return {
    query: at("query").value,
    user_id: at("user").value || undefined,
    k: number("k"),
    filters: wanted,
    relevance: at("relevance").value || undefined,
    explain: true,
  };
}

// Whether there is enough to search with: words, or a model that reads none.
const askable = () => !at("query").required || at("query").value.trim() !== "";

let latest = 0;
async function search() {
  if (!askable()) return;
  const mine = ++latest; // an answer that was overtaken is not shown
  at("results").setAttribute("aria-busy", "true");
  try {
    const asked = request();
    const answer = await ask("/search", asked);
    if (mine !== latest) return;
    at("error").hidden = true;
    remember(asked);
    showAnswer(answer, asked);
  } catch (error) {
    if (mine !== latest) return;
    at("error").textContent = error.message;
    at("error").hidden = false;
  } finally {
    if (mine === latest) at("results").removeAttribute("aria-busy");
  }
  showSequences();
}

function showAnswer(answer, asked) {
  const whose = answer.personalised
    ? `personalised for ${asked.user_id}`
    : asked.user_id ? `nothing known of ${asked.user_id}: not personalised` : "not personalised";
  const of = answer.explanation.matches.toLocaleString();
  at("summary").textContent = answer.results.length
    ? `${answer.results.length} of ${of} matching items, ${whose}`
    : "No item satisfies these filters.";
  at("serving").textContent = `bundle ${answer.bundle}`;
  at("terms").replaceChildren(...answer.terms.map((term) => showTerm(term, answer)));
  showTimings(answer.timings_ms);
  const best = answer.results[0]?.score ?? 0;
  const worst = answer.results.at(-1)?.score ?? 0;
  at("items").replaceChildren(...answer.results.map((item) => showItem(item, answer.terms, best, worst)));
  showExplanation(answer);
  suggest(answer.results);
}

function showTerm(term, answer) {
  const fields = Object.keys(term.fields).map((field) => field.replace("_", " ")).join(" or ");
  const state = term.applied ? "✓" : answer.relevance === "off" ? "(off)" : "too few, others fill up";
  const values = Object.entries(term.fields).map(([field, all]) => `${field}: ${all.join(", ")}`);
  return element("li", {
    text: `“${term.phrase}” is a ${fields} ${state}`,
    title: values.join("\n"),
    kind: term.applied ? "applied" : "dropped",
  });
}

function showTimings(timings) {
  const steps = Object.entries(timings).filter(([name]) => name !== "total");
  const [bar, list] = [at("timings").querySelector(".bar"), at("timings").querySelector("dl")];
  bar.replaceChildren(...steps.map(([, ms], step) => {
    const part = element("span", { kind: `step-${step + 1}` });
    part.style.flexGrow = ms;
    return part;
  }));
  list.replaceChildren(...[...steps, ["total", timings.total]].map(([name, ms], step) =>
    element("div", {},
      element("dt", { text: name, kind: name === "total" ? "" : `step-${step + 1}` }),
      element("dd", { text: `${ms.toFixed(1)} ms` }))));
  at("timings").hidden = false;
}

function showItem(item, terms, best, worst) {
  const tags = element("div", { kind: "tags" });
  const shown = new Set(); // a leaf often carries its category's name
  for (const field of TAGS) {
    const value = item[field];
    if (!value || shown.has(value)) continue;
    shown.add(value);
    const name = field.replace("_", " ");
    const matched = terms.some((term) => term.fields[field]?.includes(value));
    const text = field === "brand" || field === "shop" ? `${name} ${value}` : value;
    const tag = element("button", { text: matched ? `✓ ${text}` : text, type: "button",
                                    kind: matched ? "tag matched" : "tag",
                                    title: `${name}: filter by it` });
    tag.setAttribute("aria-label",
      `filter by ${name} ${value}${matched ? ", named in the query" : ""}`);
    tag.addEventListener("click", () => addFilter(field, value));
    tags.append(tag);
  }
  if (item.in_stock === false) tags.append(element("span", { text: "out of stock", kind: "tag plain" }));
  const meter = element("meter", { min: 0, max: 1, title: "score, from the last to the first" });
  meter.value = best > worst ? (item.score - worst) / (best - worst) : 1;
  meter.setAttribute("aria-hidden", "true");
  return element("li", { "data-item": item.item_id },
    element("div", { text: item.title ?? item.item_id, kind: "title", title: `item ${item.item_id}` }),
    tags,
    element("div", { kind: "side" },
      element("div", { text: item.price === null ? "" : item.price.toFixed(2), kind: "price" }),
      element("div", { text: `score ${item.score.toPrecision(4)}`, kind: "score" }),
      meter));
}

function showExplanation(answer) {
  const windows = Object.entries(answer.explanation.windows).map(([name, n]) => `${name} ${n}`);
  const rows = {
    collection: answer.collection,
    filter: answer.explanation.expressions.filter(Boolean).join("; then ") || "none",
    "events the tower saw": windows.join(", "),
    "search id": answer.search_id,
  };
  at("explain").querySelector("dl").replaceChildren(...Object.entries(rows).flatMap(
    ([name, value]) => [element("dt", { text: name }), element("dd", { text: value })]));
  at("explain").hidden = false;
}

// Filters -----------------------------------------------------------------------------------------

function addFilter(field, value) {
  if (!value || filters.some((each) => each.field === field && each.value === value)) return;
  filters.push({ field, value });
  showFilters();
  search();
}

function showFilters() {
  at("chips").replaceChildren(...filters.map((filter) => {
    const name = `${filter.field.replace("_", " ")}: ${filter.value}`;
    const remove = element("button", { text: "✕", type: "button", "aria-label": `remove ${name}` });
    remove.addEventListener("click", () => {
      filters.splice(filters.indexOf(filter), 1);
      showFilters();
      search();
    });
    return element("li", { text: name }, remove);
  }));
}

let shown = [];
function suggest(items = shown) {
  shown = items;
  const field = at("filter-field").value;
  const values = [...new Set(items.map((item) => item[field]).filter(Boolean))].sort();
  at("values").replaceChildren(...values.map((value) => element("option", { value })));
}

// Sequences ---------------------------------------------------------------------------------------

async function showSequences() {
  const user = at("user").value;
  at("refresh").hidden = !user;
  if (!user) {
    at("sequences").replaceChildren();
    at("sequences-note").textContent = "Choose a user to see their sequences.";
    return;
  }
  try {
    const known = await ask(`/user/${encodeURIComponent(user)}/sequences`);
    if (at("user").value !== user) return;
    const parts = { queries: known.queries, real_time: known.real_time,
                    short_term: known.short_term, ...known.long_term };
    at("sequences-note").textContent = known.known
      ? `User ${user}, as of ${new Date(known.at).toLocaleTimeString()}`
      : `Nothing is known of user ${user}.`;
    const open = new Map([...at("sequences").children].map((each) => [each.dataset.name, each.open]));
    at("sequences").replaceChildren(...Object.entries(parts).map(([name, events]) =>
      showSequence(name, events, new Date(known.at), open.get(name) ?? events.length > 0)));
  } catch (error) {
    at("sequences").replaceChildren();
    at("sequences-note").textContent = error.message;
  }
}

function showSequence(name, events, now, open) {
  const [title, what] = WINDOWS[name] ?? [name, ""];
  const list = element("ol", {}, ...events.slice(0, FIRST_SHOWN).map((event) => element("li", {},
    element("span", { text: event.query ?? event.title ?? event.item_id ?? "an item not in this bundle" }),
    element("time", { text: ago(now - new Date(event.at)), datetime: event.at,
                      title: new Date(event.at).toLocaleString() }))));
  const made = element("details", { kind: "sequence", "data-name": name },
    element("summary", {}, element("h3", { text: title }),
      element("span", { text: String(events.length), kind: "count" })),
    element("p", { text: what }), list);
  made.open = open;
  return made;
}

function ago(ms) {
  for (const [size, unit] of [[86400000, "d"], [3600000, "h"], [60000, "min"]])
    if (ms >= size) return `${Math.floor(ms / size)} ${unit} ago`;
  return `${Math.max(0, Math.round(ms / 1000))} s ago`;
}

// The page itself ---------------------------------------------------------------------------------

function remember(asked) {
  const state = new URLSearchParams(asked.query ? { q: asked.query } : {});
  if (asked.user_id) state.set("user", asked.user_id);
  history.replaceState(null, "", `?${state}`);
}

async function showReadiness() {
  const chip = at("serving");
  try {
    const found = await fetch("/ready").then((answer) => answer.json());
    const down = Object.entries(found.dependencies).filter(([, each]) => !each.ok);
    chip.className = `serving ${found.ready ? "ok" : "down"}`;
    chip.textContent = [found.bundle ? `bundle ${found.bundle}` : "no bundle",
                        ...down.map(([name]) => `${name} is down`)].join(", ");
    chip.title = down.map(([, each]) => each.detail).join("\n");
    if (found.reads_queries !== null) showQuery(found.reads_queries);
  } catch {
    chip.className = "serving down";
    chip.textContent = "the service does not answer";
  }
}

function showQuery(read) {
  const query = at("query");
  if (query.required === read) return;
  query.required = read;
  query.disabled = !read;
  if (!read) query.value = "";
  query.placeholder = read ? WORDS : "this model reads no words: choose a user";
}

async function showExamples() {
  const users = await ask("/users/examples").catch(() => []);
  at("users").replaceChildren(...users.map(({ user_id: value }) => element("option", { value })));
  at("examples").querySelector("ul").replaceChildren(...users.map(({ user_id: user, events }) => {
    const button = element("button", { text: user, type: "button", title: `${events} recent events` });
    button.addEventListener("click", () => {
      at("user").value = user;
      askable() ? search() : showSequences();
    });
    return element("li", {}, button);
  }));
  at("examples").hidden = users.length === 0;
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("filter-field").addEventListener("change", () => suggest());
at("filter-value").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); at("filter-add").click(); }
});
at("filter-add").addEventListener("click", () => {
  addFilter(at("filter-field").value, at("filter-value").value);
  at("filter-value").value = "";
});
at("user").addEventListener("change", showSequences);
at("refresh").addEventListener("click", showSequences);

const state = new URLSearchParams(location.search);
at("query").value = state.get("q") ?? "";
at("user").value = state.get("user") ?? "";
await showReadiness(); // it says whether the model reads words
setInterval(showReadiness, 10000);
showExamples();
askable() ? search() : showSequences();
