// What the page knows of the pairs, and which of them are listed in which order.

const $ = (id) => element.querySelector("#rv-" + id);
const MARKS = {accepted: "✓", rejected: "✗", refused: "!", passed: ""};
const AHEAD = 4, BEHIND = 2, KEPT = 60, THUMB_PX = 69, RETRY_MS = 2000;

let run = null, pairs = [], records = {}, list = [], at = 0;

const here = () => list[at];
const verdict = (pair) => records[pair.key]?.verdict || null;
const painted = (pair) => verdict(pair) === "accepted" ? records[pair.key].mask : null;
const used = (pair) => verdict(pair) === "accepted" || (verdict(pair) === null && !pair.reasons);
const kind = (pair) => verdict(pair) || (pair.reasons ? "refused" : "passed");

const SHOWN = {
  "all": () => true,
  "undecided": (pair) => !verdict(pair),
  "passed": (pair) => !pair.reasons,
  "refused": (pair) => !!pair.reasons,
  "accepted": (pair) => verdict(pair) === "accepted",
  "rejected": (pair) => verdict(pair) === "rejected",
  "mask painted": (pair) => !!painted(pair),
};
const by = (value, sign) => (a, b) => sign * ((value(a) ?? 2) - (value(b) ?? 2));
const ORDERS = {
  "as drawn": null,
  "least trusted mask first": by((pair) => pair.trust, 1),
  "most trusted mask first": by((pair) => pair.trust ?? -1, -1),
  "smallest mask first": by((pair) => pair.mask_share, 1),
  "largest mask first": by((pair) => pair.mask_share, -1),
};

function fill(select, options, names) {
  select.replaceChildren(...options.map((value, i) => new Option((names || options)[i], value)));
}

function reasonsOf(some) {
  return [...new Set(some.flatMap((pair) => pair.reasons ? pair.reasons.split("; ") : []))].sort();
}

function fillDefects() {
  const ofCategory = pairs.filter((pair) => pair.category === $("category").value);
  const defects = [...new Set(ofCategory.map((pair) => pair.defect))];
  fill($("defect"), [...defects, ""], [...defects, "all"]);
}

function fillShown() {
  const before = $("show").value;
  const reasons = reasonsOf(pairs).map((reason) => "refused: " + reason);
  fill($("show"), [...Object.keys(SHOWN), ...reasons]);
  $("show").value = before || "all";
}

function refill(key) {
  const show = $("show").value, defect = $("defect").value;
  const reason = show.startsWith("refused: ") ? show.slice(9) : null;
  const shown = reason ? (pair) => pair.reasons.split("; ").includes(reason) : SHOWN[show];
  list = pairs.filter((pair) =>
    pair.category === $("category").value && (!defect || pair.defect === defect) && shown(pair));
  const order = ORDERS[$("order").value];
  if (order) list.sort(order);
  const first = list.findIndex((pair) => !verdict(pair));
  const known = key ? list.findIndex((pair) => pair.key === key) : -1;
  at = known >= 0 ? known : Math.max(0, first);
  drawStrip();
  render();
}
