import type { Progress } from "../protocol.ts";

/** Reports progress. Errors of the caller's function are ignored. */
export async function reportProgress(
  { onProgress }: { onProgress?: (progress: Progress) => unknown },
  progress: Progress,
): Promise<void> {
  try {
    await onProgress?.(progress);
  } catch {}
}
