import type { Progress } from "../protocol.ts";

/** What the caller's function throws is the caller's own affair. */
export async function reportProgress(
  { onProgress }: { onProgress?: (progress: Progress) => unknown },
  progress: Progress,
): Promise<void> {
  try {
    await onProgress?.(progress);
  } catch {}
}
