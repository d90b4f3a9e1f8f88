// The pair that is looked at, decisions on it, keys and buttons.

let history = [];

async function render() {
  const pair = here();
  sayCounts();
  $("decide").hidden = !!paint;
  $("painting").hidden = !paint;
  $("over").classList.toggle("rv-brush", !!paint);
  $("help").textContent = paint
    ? "Left button: brush or eraser, right button: the other. [ ] or wheel: brush size. X: erase. Z: undo stroke. G: generated mask. C: clear. B: more contrast. Enter: save and accept. Esc: cancel."
    : "A: accept. R: reject. J or →: next. K or ←: previous. U: undo. E: edit mask. M: mask outlined, filled, hidden. B: more contrast. Undecided pairs count as curation has them; every decision is saved at once.";
  if (!pair) {
    $("title").textContent = "No such pair";
    $("state").textContent = "Choose another list above.";
    for (const id of ["reasons", "facts"]) $(id).replaceChildren();
    for (const id of ["plain", "over", "part", "mask"]) $(id).width = $(id).width;
    return;
  }
  $("title").textContent = `${pair.defect} ${pair.number}`;
  $("number").value = pair.number;
  const of = verdict(pair);
  const says = {accepted: ["✓ Accepted", "rv-good"], rejected: ["✗ Rejected", "rv-bad"]}[of]
    || (pair.reasons ? ["! Refused by curation, undecided", "rv-warn"] : ["Passed curation, undecided", ""]);
  $("state").textContent = says[0] + (painted(pair) ? ", mask painted" : "");
  $("state").className = says[1];
  $("reasons").textContent = pair.reasons ? "Curation: " + pair.reasons : "";
  $("facts").replaceChildren(...pair.facts.flatMap(([name, text]) => [
    Object.assign(document.createElement("dt"), {textContent: name}),
    Object.assign(document.createElement("dd"), {textContent: text})]));
  showShots(pair);
  mark(pair.key);
  let shown;
  try {
    shown = await picturesOf(pair);
  } catch (error) {
    if (here() === pair) trouble(error.refused ? error.message : "The pictures cannot be had: anodiff review does not answer.");
    return;
  }
  if (here() !== pair) return;
  const own = painted(pair) ? shown.own : null, mask = paint ? paint.mask : own || shown.mask;
  drawScaled($("plain"), seen(shown), scaleFor(shown.width));
  drawScaled($("part"), shown.part, 1);
  drawFlat($("mask"), mask, shown.width, shown.height);
  $("mask-says").textContent = paint ? "Mask, being painted" : own ? "Painted mask" : "Mask";
  $("plain-says").textContent = "Generated image" + (contrast ? ", contrast raised (B)" : "");
  $("over-says").textContent = paint ? "Paint the defect" : VIEW_SAYS[view] + " (M)";
  for (const [id, text] of [["plain", "generated image"], ["over", "image with its mask"], ["part", "anomaly part"], ["mask", "mask"]]) {
    $(id).setAttribute("aria-label", `${text} of ${pair.defect} ${pair.number}`);
  }
  if (paint) redrawPaint();
  else drawOver(shown, mask, view);
  element.dataset.shown = pair.key;
  for (let step = -BEHIND; step <= AHEAD; step++) {
    if (list[at + step]) picturesOf(list[at + step]).catch(() => {});
  }
}

function decide(word) {
  const pair = here();
  if (!pair || paint) return;
  const before = records[pair.key] || null;
  if (word === "accepted" && !before?.mask && pair.mask_share === 0) {
    note("Its mask is empty, so nothing could be learnt from it: paint the mask first (E), or reject the pair.");
    return;
  }
  history.push({key: pair.key, before});
  records[pair.key] = {verdict: word, mask: before?.mask || null};
  mark(pair.key);
  save("decide", {key: pair.key, verdict: word, mask: before?.mask || null}, before);
  goOn();
}

function goOn() {
  if (at + 1 < list.length) at += 1;
  else note(`End of the list, ${list.filter((pair) => !verdict(pair)).length} undecided in it. Choose another above.`);
  render();
}

function undo() {
  if (paint || !history.length) return;
  const {key, before} = history.pop(), now = records[key] || null;
  records[key] = before;
  save("decide", {key, verdict: before?.verdict || null, mask: before?.mask || null}, now);
  thumbs.delete(key);
  const position = list.findIndex((pair) => pair.key === key);
  if (position >= 0) at = position;
  else refill(key);
  mark(key);
  render();
}

const painting = {
  x: () => setTool(!paint.erase),
  z: () => { if (paint.strokes.length) { paint.mask = paint.strokes.pop(); render(); } },
  g: () => replaceMask(Uint8Array.from(paint.shown.mask)),
  c: () => replaceMask(new Uint8Array(paint.mask.length)),
  "[": () => setSize(brush - 1),
  "]": () => setSize(brush + 1),
  b: () => { contrast = !contrast; render(); },
  enter: savePainted,
  escape: stopPainting,
};
const looking = {
  a: () => decide("accepted"),
  r: () => decide("rejected"),
  j: () => go(at + 1),
  arrowright: () => go(at + 1),
  k: () => go(at - 1),
  arrowleft: () => go(at - 1),
  u: undo,
  e: startPainting,
  b: () => { contrast = !contrast; render(); },
  m: () => { view = VIEWS[(VIEWS.indexOf(view) + 1) % VIEWS.length]; render(); },
};
const ONCE = new Set(["a", "r", "u", "e", "enter"]);  // a key held down decides no second pair

function typing(target) {
  return target.isContentEditable || target.tagName === "TEXTAREA" || target.tagName === "SELECT"
    || (target.tagName === "INPUT" && target.type !== "range");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  const key = event.key.toLowerCase(), action = (paint ? painting : looking)[key];
  if (!action || !run) return;
  event.preventDefault();
  if (event.repeat && ONCE.has(key)) return;
  note("");
  action();
});
for (const [id, key] of [["accept", "a"], ["reject", "r"], ["edit", "e"], ["undo", "u"], ["back", "k"], ["next", "j"]]) {
  $(id).onclick = () => looking[key]();
}
for (const [id, key] of [["save", "enter"], ["cancel", "escape"], ["tool", "x"], ["stroke", "z"], ["drawn", "g"], ["clear", "c"]]) {
  $(id).onclick = () => painting[key]();
}
$("size").oninput = () => setSize($("size").value);
$("category").onchange = () => { stopPainting(); fillDefects(); refill(); $("category").blur(); };
for (const id of ["defect", "show", "order"]) {
  $(id).onchange = () => { stopPainting(); refill(); $(id).blur(); };
}
$("number").onchange = () => {
  const number = Number($("number").value);
  const position = list.findIndex((pair) => pair.number === number);
  if (position >= 0) go(position);
  else note(`No pair ${number} in this list.`);
  $("number").blur();
};
window.addEventListener("beforeunload", (event) => { if (waiting) event.preventDefault(); });

(async () => {
  try {
    run = await ask("listing", {});
  } catch (error) {
    trouble(error.refused ? error.message : "anodiff review does not answer; start it again, then load this page anew.");
    return;
  }
  pairs = run.pairs;
  records = run.records;
  $("run").textContent = run.name;
  const categories = [...new Set(pairs.map((pair) => pair.category))];
  fill($("category"), categories);
  fill($("order"), Object.keys(ORDERS));
  fillDefects();
  fillShown();
  sayWaiting();
  refill();
  element.dataset.ready = "1";
})();
