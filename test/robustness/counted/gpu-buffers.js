// Counts the GPU buffers that are alive in this worker. Asked on the channel "gpu-buffers", it answers { buffers, bytes }.
let buffers = 0;
let bytes = 0;
const forget = (size) => {
  buffers--;
  bytes -= size;
};
const collected = new FinalizationRegistry(forget); // dropped without destroy(): freed with the object

const { createBuffer } = GPUDevice.prototype;
const sizes = new WeakMap();
GPUDevice.prototype.createBuffer = function (descriptor) {
  const buffer = createBuffer.call(this, descriptor);
  buffers++;
  bytes += descriptor.size;
  sizes.set(buffer, descriptor.size);
  collected.register(buffer, descriptor.size, buffer);
  return buffer;
};

const { destroy } = GPUBuffer.prototype;
GPUBuffer.prototype.destroy = function () {
  if (sizes.has(this)) {
    forget(sizes.get(this));
    sizes.delete(this);
    collected.unregister(this);
  }
  return destroy.call(this);
};

const channel = new BroadcastChannel("gpu-buffers");
channel.onmessage = ({ data }) => void (data === "ask" && channel.postMessage({ buffers, bytes }));
