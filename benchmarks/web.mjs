// Times one model in Node by onnxruntime-web and as compiled: node web.mjs MODE SECONDS INPUT SHAPE ORT ONNX FOLDER…
//
// MODE `run` times all in turn and prints the milliseconds of every run by name; MODE `first` takes one name as ORT's
// folder or FOLDER and prints the milliseconds from nothing loaded to the first outputs. One thread throughout.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const began = performance.now();
const [mode, seconds, input, dims, ort, onnx, ...folders] = process.argv.slice(2);
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

async function compiled(folder) {
  const { load } = await import(pathToFileURL(`${folder}/model.mjs`).href);
  const model = await load(pathToFileURL(folder));
  return async () => Object.values(await model.run({ [input]: image }))[0].data;
}

if (mode === "first") {
  await (await (folders.length ? compiled(folders[0]) : reference()))();
  console.log(JSON.stringify(performance.now() - began));
} else {
  const calls = { ort: await reference() };
  for (const folder of folders) calls[folder] = await compiled(folder);
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
