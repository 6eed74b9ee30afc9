// Classifies what is drawn or chosen: compiled by graphprune from ./wasm32/, and by onnxruntime-web where ./ort/ and
// ./model.onnx are served too. See README.md beside this file.
const CLASSES = ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];
const SIDE = 28;
const drawing = document.querySelector("#drawing");
const pen = drawing.getContext("2d", { willReadFrequently: true });
const small = new OffscreenCanvas(SIDE, SIDE).getContext("2d", { willReadFrequently: true });

const { load } = await import("./wasm32/model.mjs");
const runners = { graphprune: compiled(await load(new URL("./wasm32/", import.meta.url))) };
try {
  runners["onnxruntime-web"] = await reference();
} catch {
  // not served
}

function compiled(model) {
  const [{ name }] = model.inputs;
  return async (image) => Object.values(await model.run({ [name]: image }))[0].data;
}

async function reference() {
  const { InferenceSession, Tensor, env } = await import("./ort/ort.wasm.min.mjs");
  Object.assign(env.wasm, { numThreads: 1, wasmPaths: new URL("./ort/", import.meta.url).href });
  const session = await InferenceSession.create("./model.onnx", { executionProviders: ["wasm"] });
  const [name] = session.inputNames;
  return async (image) => Object.values(await session.run({ [name]: new Tensor("float32", image, [1, 1, SIDE, SIDE]) }))[0].data;
}

/** The drawing as the network was trained: grey, 28 by 28, values from 0 to 1. */
function pixels() {
  small.drawImage(drawing, 0, 0, SIDE, SIDE);
  const { data } = small.getImageData(0, 0, SIDE, SIDE);
  return Float32Array.from({ length: SIDE * SIDE }, (_, i) => (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 765);
}

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (v) => Math.exp(v - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((v) => v / sum);
}

/** Median milliseconds of some runs, in turn. */
async function time(image, runs = 15) {
  const times = Object.fromEntries(Object.keys(runners).map((name) => [name, []]));
  for (let i = 0; i < runs; ++i) {
    for (const name in runners) {
      const start = performance.now();
      await runners[name](image);
      times[name].push(performance.now() - start);
    }
  }
  return Object.entries(times).map(([name, found]) => `${name} ${found.sort((a, b) => a - b)[runs >> 1].toFixed(2)} ms`);
}

async function classify() {
  const image = pixels();
  const shares = softmax(await runners.graphprune(image));
  const order = shares.map((_, i) => i).sort((a, b) => shares[b] - shares[a]);
  document.querySelector("#classes").replaceChildren(
    ...order.slice(0, 5).map((i) => {
      const row = document.createElement("tr");
      const meter = Object.assign(document.createElement("meter"), { value: shares[i] });
      row.insertCell().textContent = CLASSES[i];
      row.insertCell().append(meter);
      row.insertCell().textContent = `${(100 * shares[i]).toFixed(1)} %`;
      return row;
    }),
  );
  document.querySelector("#latency").textContent = `One run, one thread: ${(await time(image)).join(", ")}`;
}

function clear() {
  pen.fillStyle = "black";
  pen.fillRect(0, 0, drawing.width, drawing.height);
}

let last;
drawing.addEventListener("pointerdown", (event) => {
  last = [event.offsetX, event.offsetY];
  drawing.setPointerCapture(event.pointerId);
});
drawing.addEventListener("pointermove", (event) => {
  if (!last) return;
  Object.assign(pen, { strokeStyle: "white", lineWidth: 22, lineCap: "round" });
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo((last = [event.offsetX, event.offsetY])[0], last[1]);
  pen.stroke();
});
drawing.addEventListener("pointerup", () => {
  last = undefined;
  classify();
});
document.querySelector("#clear").addEventListener("click", () => {
  clear();
  classify();
});
document.querySelector("#file").addEventListener("change", async ({ target }) => {
  const picture = await createImageBitmap(target.files[0]);
  clear();
  const scale = Math.min(drawing.width / picture.width, drawing.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  pen.drawImage(picture, (drawing.width - width) / 2, (drawing.height - height) / 2, width, height);
  await classify();
});
clear();
await classify();
