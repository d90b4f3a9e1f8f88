// What is shown beside the pair: counts, real shots, the strip of all pairs of the list.

const thumbs = new Map(), shots = new Map();

function sayCounts() {
  const done = list.filter(verdict).length;
  $("bar").style.width = list.length ? `${100 * done / list.length}%` : "0";
  $("bar").setAttribute("aria-valuemax", list.length);
  $("bar").setAttribute("aria-valuenow", done);
  const count = (some, test) => some.filter(test).length;
  const text = [`${list.length ? at + 1 : 0} of ${list.length}, ${done} decided`];
  const pair = here();
  if (pair) {
    const ofType = pairs.filter((each) => each.category === pair.category && each.defect === pair.defect);
    const train = count(ofType, used), accepted = count(ofType, (each) => verdict(each) === "accepted");
    const rejected = count(ofType, (each) => verdict(each) === "rejected");
    text.push(`${pair.defect}: ${accepted} accepted, ${rejected} rejected, ${ofType.length - accepted - rejected} undecided`);
    text.push(`${train} good of ${run.wanted} wanted` + (train > run.wanted ? `, the first ${run.wanted} are trained on` : ""));
  }
  text.push(`whole run: ${count(pairs, verdict)} of ${pairs.length} decided`);
  $("counts").textContent = text.join(" · ");
}

async function showShots(pair) {
  const name = pair.category + "/" + pair.defect;
  if (!shots.has(name)) shots.set(name, ask("shots", {key: pair.key}).catch(() => ({shots: []})));
  const found = await shots.get(name);
  if (here() !== pair || $("shots").dataset.of === name) return;
  $("shots").dataset.of = name;
  $("real").hidden = !found.shots.length;
  $("shots").replaceChildren(...found.shots.map((url) =>
    Object.assign(new Image(), {src: url, alt: `real shot of ${pair.defect} with its mask`})));
}

function drawStrip() {
  $("strip").replaceChildren(...list.map((pair, position) => {
    const button = document.createElement("button");
    button.className = "rv-thumb";
    button.dataset.key = pair.key;
    button.setAttribute("aria-label", `${pair.defect} ${pair.number}`);
    button.append(document.createElement("i"));
    button.onclick = () => go(position);
    return button;
  }));
  list.forEach((pair) => mark(pair.key));
}

function mark(key) {
  const pair = pairs.find((each) => each.key === key);
  const position = list.indexOf(pair), button = $("strip").children[position];
  if (!button) return;
  button.className = `rv-thumb ${kind(pair)}` + (position === at ? " rv-here" : "");
  button.querySelector("i").textContent = MARKS[kind(pair)] + (painted(pair) ? " ✎" : "");
  if (position !== at) return;
  for (const other of $("strip").querySelectorAll(".rv-here")) if (other !== button) other.classList.remove("rv-here");
  $("strip").scrollLeft = button.offsetLeft - $("strip").offsetLeft - $("strip").clientWidth / 2 + 32;
  showThumbs();
}

async function showThumbs() {
  const first = Math.floor($("strip").scrollLeft / THUMB_PX), count = Math.ceil($("strip").clientWidth / THUMB_PX);
  const near = list.slice(Math.max(0, first - 5), first + count + 10);
  const missing = near.filter((pair) => !thumbs.has(pair.key)).map((pair) => pair.key);
  if (missing.length) {
    missing.forEach((key) => thumbs.set(key, null));
    try {
      const found = await ask("thumbnails", {keys: missing});
      Object.entries(found.thumbnails).forEach(([key, url]) => thumbs.set(key, url));
    } catch { missing.forEach((key) => thumbs.delete(key)); }
  }
  for (const button of $("strip").children) {
    const url = thumbs.get(button.dataset.key), image = button.querySelector("img");
    if (!url || image?.src === url) continue;
    if (image) image.src = url;
    else button.prepend(Object.assign(new Image(), {src: url, alt: ""}));
  }
}

$("strip").addEventListener("scroll", showThumbs);

function go(position) {
  if (paint || !list.length) return;
  at = Math.min(list.length - 1, Math.max(0, position));
  render();
}
