/** Measures the time of each block. */
import type { Dispatch, Workspace } from "./workspace.ts";

/**
 * Computes a picture and times its blocks: by the GPU's own clock where the device has "timestamp-query", else, or where that
 * clock is too coarse, by waiting for each block. The results are not copied yet.
 *
 * @param dispatches of the run, in order
 * @returns [blocks] milliseconds
 */
export async function timeBlocks(
  device: GPUDevice,
  workspace: Workspace,
  dispatches: readonly Dispatch[],
  withMaps: boolean,
): Promise<number[]> {
  const blocks = workspace.explain.length;
  // The embedding is block −1, the head the one after the last.
  const parts = Array.from({ length: blocks + 2 }, (_, part) => {
    const own = dispatches.filter(({ block }) => block === part - 1);
    const map = withMaps && workspace.explain[part - 1];
    return map ? [...own, map] : own;
  });
  if (device.features.has("timestamp-query")) {
    const blockMs = await byTimestamps(device, workspace, parts);
    if (blockMs.every((ms) => ms > 0)) return blockMs;
  }
  return bySubmissions(device, workspace, parts);
}

/** One submission with a pass for each part. Browsers round the clock to 0.1 ms. */
async function byTimestamps(device: GPUDevice, workspace: Workspace, parts: Dispatch[][]): Promise<number[]> {
  const count = 2 * parts.length;
  const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const querySet = device.createQuerySet({ type: "timestamp", count });
  const resolved = device.createBuffer({ label: "times", size: 8 * count, usage: QUERY_RESOLVE | COPY_SRC });
  const times = device.createBuffer({ label: "times", size: 8 * count, usage: COPY_DST | MAP_READ });
  try {
    const encoder = device.createCommandEncoder();
    parts.forEach((part, i) => {
      const timestampWrites = { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 };
      encodePass(encoder, workspace, part, timestampWrites);
    });
    encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, times, 0, 8 * count);
    device.queue.submit([encoder.finish()]);
    await times.mapAsync(GPUMapMode.READ);
    const nanoseconds = new BigUint64Array(times.getMappedRange());
    return parts.slice(1, -1).map((_, i) => Number(nanoseconds[2 * i + 3] - nanoseconds[2 * i + 2]) / 1e6);
  } finally {
    for (const made of [querySet, resolved, times]) made.destroy();
  }
}

async function bySubmissions(device: GPUDevice, workspace: Workspace, parts: Dispatch[][]): Promise<number[]> {
  const partMs: number[] = [];
  for (const part of parts) {
    const encoder = device.createCommandEncoder();
    encodePass(encoder, workspace, part);
    const start = performance.now();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    partMs.push(performance.now() - start);
  }
  return partMs.slice(1, -1);
}

function encodePass(
  encoder: GPUCommandEncoder,
  workspace: Workspace,
  part: Dispatch[],
  timestampWrites?: GPUComputePassTimestampWrites,
): void {
  const pass = encoder.beginComputePass({ timestampWrites });
  for (const dispatch of part) workspace.encode(pass, dispatch);
  pass.end();
}
