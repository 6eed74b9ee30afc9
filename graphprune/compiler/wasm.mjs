// Written by graphprune: runs the compiled model of this folder. For browsers, workers and Node 18 or later.
//
//   import { load } from "./model.mjs";
//   const model = await load();
//   const out = await model.run({ image: new Float32Array(3 * 32 * 32) });
//   out.logits.data, out.logits.dims
//
// `load(undefined, { threads: 4 })` lets workers share the work, in a page that is cross-origin isolated.

// A function that returns a v128: valid only where WebAssembly has SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

// A function that returns f32x4.relaxed_madd of zeros: valid only where WebAssembly has relaxed SIMD.
const ZERO = [65, 0, 253, 15];
const RELAXED = [...SIMD.slice(0, 19), 10, 19, 1, 17, 0, ...ZERO, ...ZERO, ...ZERO, 253, 133, 2, 11];

// A shared memory, and a function that loads atomically from it and fills none of it: valid only where instances in
// several threads can work on one memory.
const SHARED = [
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 5, 4, 1, 3, 1, 1, 10, 20, 1, 18, 0],
  ...[65, 0, 254, 16, 2, 0, 26, 65, 0, 65, 0, 65, 0, 252, 11, 0, 11],
];
const FEATURES = { "relaxed-simd": RELAXED, atomics: SHARED, "bulk-memory": SHARED };

const has = (module) => WebAssembly.validate(new Uint8Array(module));

// A thread is a worker that runs this same module and knows itself by a name.
const THREAD = "graphprune thread";
const PAGE = 65536;
const STACK = 64 * PAGE; // bytes of a thread's own, with
const LOCAL = 4096; // bytes at its end for variables of that thread
const SPARE = 1024; // pages that large temporaries may take
const MOST = 65535; // pages of a memory

/**
 * The model in `folder`, a URL or a path; by default the folder of this module.
 *
 * With `threads` above 1, that many share the work and results are the same to the bit. Where the engine shares no
 * memory (a page must be cross-origin isolated) or starts no worker, one does it all: `model.threads` says how many.
 *
 * Throws an Error that says which file is missing, truncated or of another model, what the engine lacks, or how much
 * memory there was none of.
 */
export async function load(folder = new URL(".", import.meta.url), { threads = 1 } = {}) {
  if (!(Number.isInteger(threads) && threads >= 1)) throw new RangeError(`threads is ${threads}, not an integer from 1 on`);
  if (!has(SIMD)) throw new Error("this engine lacks WebAssembly SIMD");
  const url = await base(folder);
  const read = reader(url);
  const manifest = parse(await read("manifest.json"));
  const there = Object.keys(FEATURES).filter((name) => has(FEATURES[name]) && (name !== "atomics" || (threads > 1 && isolated())));
  const [file, features] = Object.entries(manifest.also).find(([, wanted]) => wanted.every((f) => there.includes(f))) ?? [manifest.library, []];
  const reading = read(file);
  const first = file === manifest.library ? reading : manifest.embedded && read(manifest.library);
  const [code, weights] = await Promise.all([reading, manifest.embedded ? inside(first, manifest) : ask(new URL("weights.bin", url))]);
  const shared = features.includes("atomics");
  const { module, wasm, memory } = await instantiate(file, code, shared && sharedMemory(manifest, threads));
  const model = new Model(manifest, wasm, memory);
  await model.begin(weights);
  if (shared) await model.start(module, threads);
  return model;
}

/** The weights at the end of the first module, as a file that was asked for. */
async function inside(first, { library, weights_bytes: bytes }) {
  const module = await first;
  const at = module.length - bytes;
  const name = new TextDecoder().decode(module.subarray(Math.max(at - 7, 0), Math.max(at, 0)));
  if (name !== "weights") throw new Error(`${library}: truncated`);
  return { into: (array) => (array.set(module.subarray(at)), bytes) };
}

/** Whether memory can be shared with workers here; what is no page has no say in `crossOriginIsolated`. */
function isolated() {
  return typeof SharedArrayBuffer !== "undefined" && globalThis.crossOriginIsolated !== false;
}

/** Bytes that every thread but the first has of its own. */
function ownBytes(manifest) {
  return STACK + PAGE * Math.ceil(manifest.workspace_bytes / PAGE);
}

/** Limits of a memory for so many threads. */
function sharedMemory(manifest, threads) {
  const initial = manifest.pages + ((threads - 1) * ownBytes(manifest)) / PAGE;
  if (initial > MOST) throw new Error(`out of memory: ${threads} threads need ${initial} pages of at most ${MOST}`);
  return { initial, maximum: Math.min(initial + SPARE, MOST), shared: true };
}

async function instantiate(file, code, limits) {
  try {
    const memory = limits && new WebAssembly.Memory(limits);
    const { module, instance } = await WebAssembly.instantiate(code, memory ? { env: { memory } } : {});
    return { module, wasm: instance.exports, memory: memory || instance.exports.memory };
  } catch (cause) {
    const reason = cause instanceof RangeError ? "out of memory" : "truncated, or no WebAssembly this engine takes";
    throw new Error(`${file}: ${reason} (${cause.message})`, { cause });
  }
}

class Model {
  #wasm;
  #memory;
  #manifest;

  constructor(manifest, wasm, memory) {
    this.#wasm = wasm;
    this.#memory = memory;
    this.#manifest = manifest;
    this.inputs = manifest.inputs;
    this.outputs = manifest.outputs;
    this.threads = 1;
    if (this.#text(wasm.identity()) !== manifest.identity) throw new Error("the module is not the one of manifest.json");
  }

  /** Get ready to run. */
  async begin(weights) {
    const [wasm, bytes] = [this.#wasm, this.#manifest.weights_bytes];
    const found = await weights.into(new Uint8Array(this.#memory.buffer, wasm.weights(), bytes));
    if (found !== bytes) throw new Error(`weights.bin has ${found} bytes, not ${bytes}`);
    wasm._initialize();
    this.#check(wasm.start());
  }

  /** Start the other threads. */
  async start(module, threads) {
    const own = ownBytes(this.#manifest);
    const first = this.#manifest.pages * PAGE;
    const others = Array.from({ length: threads - 1 }, (_, i) => thread({ module, memory: this.#memory, at: first + i * own }));
    this.threads += (await Promise.all(others)).filter(Boolean).length;
    this.#wasm.share(this.threads);
  }

  /** Run on one array, or one `{ data, dims }`, per input; each output comes as `{ data, dims }`, a copy of its own. */
  async run(inputs) {
    const wasm = this.#wasm;
    const arrays = check(this.inputs, inputs);
    this.inputs.forEach((value, i) => this.#view(wasm.input(i), value).set(arrays[i]));
    this.#check(wasm.run());
    return Object.fromEntries(
      this.outputs.map((value, i) => [value.name, { data: this.#view(wasm.output(i), value).slice(), dims: [...value.shape] }]),
    );
  }

  /** End the other threads; the model goes on without them. */
  close() {
    if (this.threads > 1) this.#wasm.end();
    this.threads = 1;
  }

  #check(failed) {
    if (failed) throw new Error(`kernel ${failed} failed: ${this.#text(this.#wasm.error())}`);
  }

  #view(at, { dtype, shape }) {
    return new ARRAYS[dtype](this.#memory.buffer, at, size(shape));
  }

  #text(at) {
    const bytes = new Uint8Array(this.#memory.buffer, at);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}

// Node's workers are in a module; browsers have theirs at hand, and must hear of them before a first pause.
const node = globalThis.process?.versions?.node ? await import("node:worker_threads") : null;

/** Start a worker that helps, on the bytes from `at` on; whether it does. */
async function thread(task) {
  try {
    const options = node ? { workerData: THREAD, execArgv: [] } : { type: "module", name: THREAD };
    const worker = new (node?.Worker ?? Worker)(new URL(import.meta.url), options);
    const listen = (event, told) => (node ? worker.on(event, told) : worker.addEventListener(event, told));
    const helps = await new Promise((resolve) => {
      listen("message", (message) => resolve(node ? message : message.data));
      listen("error", () => resolve(false));
      worker.postMessage(task);
    });
    if (!helps) worker.terminate();
    worker.unref?.(); // it does not keep a program running
    return helps;
  } catch {
    return false; // the module lies where this page may start no worker from
  }
}

async function help({ module, memory, at }, port) {
  let wasm;
  try {
    wasm = (await WebAssembly.instantiate(module, { env: { memory } })).exports;
  } catch {
    return port.postMessage(false);
  }
  const local = at + STACK - LOCAL;
  wasm.__stack_pointer.value = local;
  port.postMessage(true);
  wasm.help(local, at + STACK);
  port.close();
}

const port = node?.workerData === THREAD ? node.parentPort : !node && globalThis.name === THREAD ? globalThis : null;
if (port) port.onmessage = ({ data }) => help(data, port);
