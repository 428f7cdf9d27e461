import v8 from "node:v8";
import vm from "node:vm";
import { expect, test } from "vitest";
import { DeviceWatch } from "../../src/engines/gpuDevice.ts";

v8.setFlagsFromString("--expose-gc");
const collect = vm.runInNewContext("gc") as () => void;

function fakeDevice() {
  let lose!: (info: { reason: string; message: string }) => void;
  const lost = new Promise((resolve) => (lose = resolve));
  return { device: { lost } as unknown as GPUDevice, lose };
}

const guard = <T>(watch: DeviceWatch, work: () => Promise<T>) => watch.guard(() => work());

test("a watch holds no outcome of a run that has ended", async () => {
  const watch = new DeviceWatch("tfjs-webgpu", fakeDevice().device);
  const outcomes: WeakRef<object>[] = [];
  for (let k = 0; k < 20; k++) {
    await guard(watch, async () => {
      const outcome = new Float32Array(1000);
      outcomes.push(new WeakRef(outcome));
      return outcome;
    });
  }
  await new Promise((resolve) => setTimeout(resolve, 10)); // a WeakRef holds until the end of its task
  collect();
  expect(outcomes.filter((outcome) => outcome.deref()).length).toBeLessThanOrEqual(1); // the last may be in a register
  expect(watch.isLost).toBe(false);
});

test("the end of a device ends its runs, those that wait for ever too, and those after it", async () => {
  const { device, lose } = fakeDevice();
  const watch = new DeviceWatch("onnx-webgpu", device);
  const runs = [new Promise<never>(() => {}), new Promise<never>(() => {})].map((never) => guard(watch, () => never));
  lose({ reason: "destroyed", message: "gone" });
  for (const outcome of await Promise.allSettled([...runs, guard(watch, async () => 1)])) {
    expect(outcome).toMatchObject({ status: "rejected", reason: { code: "device-lost" } });
    expect((outcome as PromiseRejectedResult).reason.message).toContain("destroyed, gone");
  }
});
