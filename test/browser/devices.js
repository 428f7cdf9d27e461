// Before the package, in a worker or a page: counts what is alive on GPUs, and loses them when told. The BroadcastChannel
// "gpu" takes any of { now: true } (all devices are lost), { after, times } (so many devices are lost, each when it has
// been given `after` submissions of work), { adapters: false } (there are no others), and answers
// { alive, losses, pipelines, blocking }: the last two count since the start, and `blocking` those made without Async.
export const alive = { devices: 0, buffers: 0, textures: 0 };
/** device that is not lost → what is alive on it */
const held = new Map();
const plan = { after: 0, times: 0 };
let losses = 0;
let pipelines = 0;
let blocking = 0;
let adapters = true;

function watch(device) {
  const own = { buffers: 0, textures: 0, submits: 0, ended: false };
  held.set(device, own);
  alive.devices++;
  const end = () => {
    if (own.ended) return;
    own.ended = true;
    alive.devices--;
    alive.buffers -= own.buffers;
    alive.textures -= own.textures;
    held.delete(device);
  };
  device.lost.then(end);
  const { destroy } = device;
  device.destroy = () => {
    end();
    destroy.call(device);
  };
  for (const [make, kind] of [
    ["createBuffer", "buffers"],
    ["createTexture", "textures"],
  ]) {
    const create = device[make];
    device[make] = (...args) => {
      const made = create.apply(device, args);
      const free = made.destroy;
      let isAlive = true;
      const add = (n) => {
        if (own.ended) return; // all ended with the device
        own[kind] += n;
        alive[kind] += n;
      };
      add(1);
      made.destroy = () => {
        if (isAlive) add(-1);
        isAlive = false;
        free.call(made);
      };
      return made;
    };
  }
  for (const make of [
    "createComputePipeline",
    "createComputePipelineAsync",
    "createRenderPipeline",
    "createRenderPipelineAsync",
  ]) {
    const create = device[make];
    device[make] = (...args) => {
      pipelines++;
      if (!make.endsWith("Async")) blocking++;
      return create.apply(device, args);
    };
  }
  const { queue } = device;
  const { submit } = queue;
  queue.submit = (buffers) => {
    submit.call(queue, buffers);
    if (plan.times > 0 && !own.ended && own.submits++ >= plan.after) lose(device);
  };
}

function lose(device) {
  plan.times = Math.max(0, plan.times - 1);
  losses++;
  device.destroy();
}

if (globalThis.GPUAdapter) {
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const device = await requestDevice.apply(this, args);
    watch(device);
    return device;
  };
  const { requestAdapter } = GPU.prototype;
  GPU.prototype.requestAdapter = async function (...args) {
    return adapters ? requestAdapter.apply(this, args) : null;
  };
}

const channel = new BroadcastChannel("gpu");
channel.onmessage = ({ data }) => {
  if (data.alive) return;
  if (data.after !== undefined) {
    Object.assign(plan, { after: data.after, times: data.times });
    for (const own of held.values()) own.submits = 0;
  }
  if (data.adapters !== undefined) adapters = data.adapters;
  if (data.now) for (const device of [...held.keys()]) lose(device);
  channel.postMessage({ alive: { ...alive }, losses, pipelines, blocking });
};
