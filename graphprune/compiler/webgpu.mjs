// Written by graphprune: runs the compiled model of this folder on a graphics processor. For browsers with WebGPU.
//
//   import { load } from "./model.mjs";
//   const model = await load();
//   const out = await model.run({ image: new Float32Array(3 * 32 * 32) });
//   out.logits.data, out.logits.dims

// What a device can be asked for beyond what every WebGPU has.
const LIMITS = ["maxBufferSize", "maxStorageBufferBindingSize", "maxStorageBuffersPerShaderStage"];

/**
 * The model in `folder`, a URL or a path; by default the folder of this module.
 *
 * Throws an Error that says which file is missing, truncated or of another model, what the engine lacks, or how much
 * memory there was none of.
 */
export async function load(folder = new URL(".", import.meta.url)) {
  const device = await open();
  const read = reader(await base(folder));
  const manifest = parse(await read("manifest.json"));
  const [code, weights] = await Promise.all([read(manifest.library), manifest.embedded ? null : read("weights.bin")]);
  const program = parseProgram(manifest, code);
  const constants = weights ?? Uint8Array.from(atob(program.weights), (c) => c.charCodeAt(0));
  if (constants.length !== manifest.weights_bytes) {
    throw new Error(`weights.bin has ${constants.length} bytes, not ${manifest.weights_bytes}`);
  }
  for (const bytes of [constants.length, ...program.rooms]) {
    const most = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
    if (bytes > most) throw new Error(`out of memory: the model needs ${bytes} bytes at once, this device gives ${most}`);
  }
  const model = new Model(device, manifest, program);
  await watched(device, () => model.prepare(constants));
  return model;
}

async function open() {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter();
  if (!adapter) throw new Error("this engine lacks WebGPU, or a graphics processor for it");
  return adapter.requestDevice({ requiredLimits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])) });
}

function parseProgram(manifest, code) {
  let program;
  try {
    program = JSON.parse(new TextDecoder().decode(code));
  } catch (cause) {
    throw new Error(`${manifest.library} is truncated or no JSON`, { cause });
  }
  if (program.identity !== manifest.identity) throw new Error("the program is not the one of manifest.json");
  return program;
}

/** What `work` gives; throws where the device reports that memory ran out or that something is not allowed. */
async function watched(device, work) {
  device.pushErrorScope("out-of-memory");
  device.pushErrorScope("validation");
  let result;
  try {
    result = await work();
  } finally {
    const [wrong, full] = [await device.popErrorScope(), await device.popErrorScope()];
    if (full) throw new Error(`out of memory (${full.message})`);
    if (wrong) throw new Error(`the device refuses the model: ${wrong.message}`);
  }
  return result;
}

class Model {
  #device;
  #program;
  #rooms;
  #steps;

  constructor(device, manifest, program) {
    this.#device = device;
    this.#program = program;
    this.inputs = manifest.inputs;
    this.outputs = manifest.outputs;
  }

  /** Memory, weights in it, and every launch ready to go. */
  async prepare(constants) {
    const { kernels, rooms, tensors, launches } = this.#program;
    const device = this.#device;
    const { STORAGE, UNIFORM, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const buffer = (bytes, usage = STORAGE | COPY_SRC | COPY_DST) => device.createBuffer({ size: bytes, usage });
    this.#rooms = [buffer(constants.length), ...rooms.map((bytes) => buffer(bytes))];
    device.queue.writeBuffer(this.#rooms[0], 0, constants);
    const pipelines = {};
    for (const [name, code] of Object.entries(kernels)) {
      const module = device.createShaderModule({ code });
      pipelines[name] = device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: name } });
    }
    for (const name in pipelines) pipelines[name] = await pipelines[name];
    this.#steps = launches.map(([name, places, blocks]) => {
      // Blocks along x go on along z where there are more than a device has; the kernel is told where they end.
      const most = device.limits.maxComputeWorkgroupsPerDimension;
      const grid = [Math.min(blocks[0], most), blocks[1], Math.ceil(blocks[0] / most)];
      const last = buffer(16, UNIFORM | COPY_DST);
      device.queue.writeBuffer(last, 0, new Uint32Array([blocks[0] - 1, 0, 0, 0]));
      const resources = places.map((place) => {
        const [room, offset, size] = tensors[place];
        return { buffer: this.#rooms[room], offset, size };
      });
      const entries = [...resources, { buffer: last }].map((resource, binding) => ({ binding, resource }));
      const group = device.createBindGroup({ layout: pipelines[name].getBindGroupLayout(0), entries });
      return [pipelines[name], group, grid];
    });
  }

  /** Run on one array, or one `{ data, dims }`, per input; each output comes as `{ data, dims }`, a copy of its own. */
  async run(inputs) {
    const arrays = check(this.inputs, inputs);
    return watched(this.#device, () => this.#run(arrays));
  }

  async #run(arrays) {
    const { tensors, inputs, outputs } = this.#program;
    const device = this.#device;
    arrays.forEach((array, i) => {
      const [room, offset] = tensors[inputs[i]];
      device.queue.writeBuffer(this.#rooms[room], offset, narrowed(array, this.inputs[i]));
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const [pipeline, group, grid] of this.#steps) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...grid);
    }
    pass.end();
    const copies = outputs.map((output) => {
      const [room, offset, size] = tensors[output];
      const copy = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
      encoder.copyBufferToBuffer(this.#rooms[room], offset, copy, 0, size);
      return copy;
    });
    device.queue.submit([encoder.finish()]);
    await Promise.all(copies.map((copy) => copy.mapAsync(GPUMapMode.READ)));
    return Object.fromEntries(
      this.outputs.map((value, i) => {
        const data = widened(copies[i].getMappedRange().slice(0), value);
        copies[i].destroy();
        return [value.name, { data, dims: [...value.shape] }];
      }),
    );
  }
}

/** An input as the device holds it, which has integers of 32 bits and nothing for truth values. */
function narrowed(array, { name, dtype }) {
  if (dtype === "bool") return Int32Array.from(array, (value) => (value ? 1 : 0));
  if (dtype !== "int64") return array;
  const wide = array.find((value) => value !== BigInt.asIntN(32, value));
  if (wide !== undefined) throw new RangeError(`input "${name}" holds ${wide}, and a graphics processor has 32 bits`);
  return Int32Array.from(array, Number);
}

/** An output as the model has it, from what the device holds. */
function widened(bytes, { dtype, shape }) {
  if (dtype === "int64") return BigInt64Array.from(new Int32Array(bytes, 0, size(shape)), BigInt);
  if (dtype === "bool") return Uint8Array.from(new Int32Array(bytes, 0, size(shape)));
  return new ARRAYS[dtype](bytes, 0, size(shape));
}
