// Times one model in Node by onnxruntime-web, by LiteRT.js and as compiled: node web.mjs MODE SECONDS INPUT SHAPE ORT
// ONNX WAY…, where a WAY is `ort`, a file for LiteRT.js (whose folder is LITERT in the environment) or a compiled folder.
//
// MODE `run` times all in turn and prints the milliseconds of every run and the outputs by WAY; MODE `first` takes one
// WAY and prints the milliseconds from nothing loaded to the first outputs. One thread throughout.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { runInThisContext } from "node:vm";

const began = performance.now();
const [mode, seconds, input, dims, ort, onnx, ...ways] = process.argv.slice(2);
const shape = dims.split(",").map(Number);
const image = new Float32Array(shape.reduce((a, b) => a * b));
for (let i = 0, state = 1; i < image.length; ++i) {
  state = (state * 48271) % 2147483647; // Lehmer's generator
  image[i] = (2 * state) / 2147483647 - 1;
}

async function reference() {
  const { InferenceSession, Tensor, env } = await import(pathToFileURL(`${ort}/ort.wasm.min.mjs`).href);
  Object.assign(env.wasm, { numThreads: 1, wasmPaths: pathToFileURL(`${ort}/`).href });
  const session = await InferenceSession.create(new Uint8Array(await readFile(onnx)), { executionProviders: ["wasm"] });
  return async () => Object.values(await session.run({ [input]: new Tensor("float32", image, shape) }))[0].data;
}

/** LiteRT.js wants a page or a worker, of which it asks no more than this; its images come channels last. */
async function litert(file) {
  const [folder, printed] = [process.env.LITERT, console.log];
  console.log = console.info = () => {}; // it tells much, where the answer is expected
  const code = async (url) => runInThisContext(await readFile(url, "utf-8"), { filename: url });
  const loader = `${folder}/wasm/litert_wasm_internal.js`;
  Object.assign(globalThis, { self: globalThis, require: createRequire(loader), __dirname: `${folder}/wasm` });
  await code(loader);
  globalThis.importScripts = () => {};
  const { loadLiteRt, loadAndCompile, Tensor } = await import(pathToFileURL(`${folder}/dist/index.js`).href);
  await loadLiteRt(loader);
  const model = await loadAndCompile(new Uint8Array(await readFile(file)), { accelerator: "wasm" });
  const [n, channels, height, width] = shape;
  const last = Float32Array.from(image, (_, i) => image[(i % channels) * height * width + Math.floor(i / channels)]);
  console.log = printed;
  return async () => {
    const given = new Tensor(last, [n, height, width, channels]);
    const [found] = await model.run(given);
    const data = found.toTypedArray().slice();
    given.delete();
    found.delete();
    return data;
  };
}

async function compiled(folder) {
  const { load } = await import(pathToFileURL(`${folder}/model.mjs`).href);
  const model = await load(pathToFileURL(folder));
  return async () => Object.values(await model.run({ [input]: image }))[0].data;
}

const prepare = (way) => (way === "ort" ? reference() : way.endsWith(".tflite") ? litert(way) : compiled(way));

if (mode === "first") {
  await (await prepare(ways[0]))();
  console.log(JSON.stringify(performance.now() - began));
} else {
  const calls = {};
  for (const way of ways) calls[way] = await prepare(way);
  const times = {};
  const outputs = {};
  for (const name in calls) {
    outputs[name] = Array.from(await calls[name]());
    for (let i = 0; i < 4; ++i) await calls[name](); // until the engine has compiled it well
    times[name] = [];
  }
  const end = performance.now() + 1e3 * Number(seconds);
  while (performance.now() < end || times.ort.length < 5) {
    for (const name in calls) {
      const start = performance.now();
      await calls[name]();
      times[name].push(performance.now() - start);
    }
  }
  console.log(JSON.stringify({ times, outputs }));
}
