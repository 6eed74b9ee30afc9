// Written by graphprune: runs the compiled model of this folder. For browsers, workers and Node 18 or later.
//
//   import { load } from "./model.mjs";
//   const model = await load();
//   const out = await model.run({ image: new Float32Array(3 * 32 * 32) });
//   out.logits.data, out.logits.dims

// A function that returns a v128: valid only where WebAssembly has SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

// A function that returns f32x4.relaxed_madd of zeros: valid only where WebAssembly has relaxed SIMD.
const ZERO = [65, 0, 253, 15];
const RELAXED = [...SIMD.slice(0, 19), 10, 19, 1, 17, 0, ...ZERO, ...ZERO, ...ZERO, 253, 133, 2, 11];
const FEATURES = { "relaxed-simd": RELAXED };

const has = (module) => WebAssembly.validate(new Uint8Array(module));

/**
 * The model in `folder`, a URL or a path; by default the folder of this module.
 *
 * Throws an Error that says which file is missing, truncated or of another model, what the engine lacks, or how much
 * memory there was none of.
 */
export async function load(folder = new URL(".", import.meta.url)) {
  if (!has(SIMD)) throw new Error("this engine lacks WebAssembly SIMD");
  const read = reader(await base(folder));
  const manifest = parse(await read("manifest.json"));
  const [file] = Object.entries(manifest.also).find(([, features]) => features.every((f) => has(FEATURES[f]))) ?? [manifest.library];
  const [code, weights] = await Promise.all([read(file), manifest.embedded ? null : read("weights.bin")]);
  return new Model(manifest, await instantiate(file, code), weights);
}

async function instantiate(file, code) {
  try {
    return (await WebAssembly.instantiate(code, {})).instance.exports;
  } catch (cause) {
    const reason = cause instanceof RangeError ? "out of memory" : "truncated, or no WebAssembly this engine takes";
    throw new Error(`${file}: ${reason} (${cause.message})`, { cause });
  }
}

class Model {
  #wasm;

  constructor(manifest, wasm, weights) {
    if (this.#text(wasm, wasm.identity()) !== manifest.identity) throw new Error("the module is not the one of manifest.json");
    if (weights && weights.length !== manifest.weights_bytes) {
      throw new Error(`weights.bin has ${weights.length} bytes, not ${manifest.weights_bytes}`);
    }
    if (weights) new Uint8Array(wasm.memory.buffer).set(weights, wasm.weights());
    wasm._initialize();
    wasm.start();
    this.#wasm = wasm;
    this.inputs = manifest.inputs;
    this.outputs = manifest.outputs;
  }

  /** Run on one array, or one `{ data, dims }`, per input; each output comes as `{ data, dims }`, a copy of its own. */
  async run(inputs) {
    const wasm = this.#wasm;
    const arrays = check(this.inputs, inputs);
    this.inputs.forEach((value, i) => view(wasm, wasm.input(i), value).set(arrays[i]));
    const failed = wasm.run();
    if (failed) throw new Error(`kernel ${failed} failed: ${this.#text(wasm, wasm.error())}`);
    return Object.fromEntries(
      this.outputs.map((value, i) => [value.name, { data: view(wasm, wasm.output(i), value).slice(), dims: [...value.shape] }]),
    );
  }

  #text(wasm, at) {
    const bytes = new Uint8Array(wasm.memory.buffer, at);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }
}

function view(wasm, at, { dtype, shape }) {
  return new ARRAYS[dtype](wasm.memory.buffer, at, size(shape));
}
