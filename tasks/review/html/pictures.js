// The pictures of a pair: fetched ahead, kept, drawn with their mask.

const VIEWS = ["outline", "filled", "hidden"];
const VIEW_SAYS = {outline: "Its mask, outlined", filled: "Its mask, filled", hidden: "Without its mask"};

let view = "outline", contrast = false;
const pictures = new Map();

const loaded = (url) => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = failed;
  image.src = url;
});

async function maskOf(url) {
  const image = await loaded(url);
  const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, image.width, image.height).data;
  return Uint8Array.from({length: image.width * image.height}, (_, i) => rgba[4 * i] > 127 ? 1 : 0);
}

// The pictures of a pair, kept; of a painted one with the painted mask.
function picturesOf(pair) {
  const name = pair.key + "|" + (records[pair.key]?.mask || "");
  if (!pictures.has(name)) {
    const wanted = ask("pictures", {key: pair.key}).then(async (urls) => {
      const [image, part] = await Promise.all([loaded(urls.image), loaded(urls.part)]);
      const [mask, own] = await Promise.all([maskOf(urls.mask), urls.painted ? maskOf(urls.painted) : null]);
      return {image, part, mask, own, width: image.width, height: image.height};
    });
    wanted.catch(() => pictures.delete(name));
    pictures.set(name, wanted);
    if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(name);
}

// Grey levels from the darkest to the brightest hundredth spread over all there are: dark parts hide dark defects.
function stretched(image) {
  const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height), data = pixels.data;
  const levels = [];
  for (let i = 0; i < data.length; i += 4) levels.push((data[i] + data[i + 1] + data[i + 2]) / 3);
  levels.sort((a, b) => a - b);
  const low = levels[Math.floor(levels.length * .01)], high = levels[Math.floor(levels.length * .99)];
  const gain = 255 / Math.max(1, high - low);
  for (let i = 0; i < data.length; i++) if (i % 4 < 3) data[i] = (data[i] - low) * gain;
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const seen = (shown) => contrast ? (shown.stretched ||= stretched(shown.image)) : shown.image;

function drawScaled(canvas, image, scale) {
  canvas.width = image.width * scale;
  canvas.height = image.height * scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return context;
}

const scaleFor = (width) => Math.max(1, Math.round(640 / width));

function drawMask(context, mask, width, height, scale, how) {
  if (how === "hidden") return;
  if (how === "filled") {
    context.fillStyle = "rgba(255, 45, 85, .45)";
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        let end = x;
        while (end < width && mask[y * width + end]) end++;
        if (end > x) context.fillRect(x * scale, y * scale, (end - x) * scale, scale);
        x = end;
      }
    }
    return;
  }
  const edges = new Path2D();
  const on = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      if (!on(x - 1, y)) { edges.moveTo(x * scale, y * scale); edges.lineTo(x * scale, (y + 1) * scale); }
      if (!on(x + 1, y)) { edges.moveTo((x + 1) * scale, y * scale); edges.lineTo((x + 1) * scale, (y + 1) * scale); }
      if (!on(x, y - 1)) { edges.moveTo(x * scale, y * scale); edges.lineTo((x + 1) * scale, y * scale); }
      if (!on(x, y + 1)) { edges.moveTo(x * scale, (y + 1) * scale); edges.lineTo((x + 1) * scale, (y + 1) * scale); }
    }
  }
  for (const [width_, colour] of [[4, "rgba(255, 255, 255, .8)"], [2, "#ff2d55"]]) {
    context.lineWidth = width_;
    context.strokeStyle = colour;
    context.stroke(edges);
  }
}

function drawOver(shown, mask, how) {
  const scale = scaleFor(shown.width);
  drawMask(drawScaled($("over"), seen(shown), scale), mask, shown.width, shown.height, scale, how);
}

function drawFlat(canvas, mask, width, height) {
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  mask.forEach((on, i) => pixels.data.set(on ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
