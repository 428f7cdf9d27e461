/**
 * slimvit bench kernels: the share of this machine's peak of 128-bit multiply-adds that the simd engine's linears reach,
 * in a real browser, on one thread, at the shapes of DeiT-Ti and DeiT-S. The peak is measured in the same rounds, by a
 * loop of independent multiply-adds.
 */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openPage } from "../shared/browser.ts";
import { besides } from "../shared/runtime.ts";

export interface KernelRow {
  /** of the shape: DeiT-Ti or DeiT-S, and its linear */
  linear: string;
  /** rows × inputs × outputs */
  shape: [number, number, number];
  dtype: "f32" | "f16" | "int8";
  /** 10⁹ multiplications and additions a second, in the fastest turn */
  gflops: number;
  /** of the machine's 128-bit f32 multiply-add; int8 has four times as many lanes, so may pass 1 */
  shareOfPeak: number;
  peakGflops: number;
}

export async function benchKernels(rounds: number): Promise<KernelRow[]> {
  const temporary = mkdtempSync(join(tmpdir(), "slimvit-kernels-"));
  try {
    const script = join(temporary, "page.js");
    const entry = besides(import.meta.url, "kernels-page.js", "kernelsPage.ts");
    if (entry.endsWith(".ts")) {
      const { build } = await import("esbuild");
      await build({ entryPoints: [entry], bundle: true, format: "iife", outfile: script, logLevel: "error" });
    } else copyFileSync(entry, script);
    const { page, close } = await openPage({});
    try {
      await page.addScriptTag({ path: script });
      return await page.evaluate(
        (rounds) => (globalThis as unknown as { measure(rounds: number): Promise<KernelRow[]> }).measure(rounds),
        rounds,
      );
    } finally {
      await close();
    }
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

export function kernelsTable(rows: KernelRow[]): string {
  return [
    `fastest rounds; peak of 128-bit f32 multiply-adds in the same rounds: ${rows[0].peakGflops.toFixed(1)} GFLOP/s`,
    "",
    "| linear | rows × inputs × outputs | weights | G(FL)OP/s | share of the peak |",
    "| --- | --- | --- | --- | --- |",
    ...rows.map(
      ({ linear, shape, dtype, gflops, shareOfPeak }) =>
        `| ${linear} | ${shape.join(" × ")} | ${dtype} | ${gflops.toFixed(1)} | ${shareOfPeak.toFixed(2)} |`,
    ),
  ].join("\n");
}
