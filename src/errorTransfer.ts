/** Carries our errors between page and worker, with code and cause. */
import { type TransferHandler, transferHandlers } from "comlink";
import { SlimViTError, type SlimViTErrorCode } from "./errors.ts";

interface WireError {
  slimvit: { code: SlimViTErrorCode; message: string; stack?: string; cause?: { name: string; message: string } };
}

let carried = false;

/** comlink alone carries an error's message, name and stack. Both sides call this before they talk. */
export function carryErrors(): void {
  if (carried) return;
  carried = true;
  const plain = transferHandlers.get("throw") as TransferHandler<{ value: unknown }, unknown>;
  transferHandlers.set("throw", {
    canHandle: plain.canHandle,
    serialize(thrown) {
      return thrown.value instanceof SlimViTError ? [pack(thrown.value), []] : plain.serialize(thrown);
    },
    deserialize(wire) {
      if (isWireError(wire)) throw unpack(wire);
      return plain.deserialize(wire);
    },
  } satisfies TransferHandler<{ value: unknown }, unknown>);
}

function pack({ code, message, stack, cause }: SlimViTError): WireError {
  const plainCause = cause instanceof Error ? { name: cause.name, message: cause.message } : undefined;
  return { slimvit: { code, message, stack, cause: plainCause } };
}

function isWireError(wire: unknown): wire is WireError {
  return typeof wire === "object" && wire !== null && "slimvit" in wire;
}

function unpack({ slimvit: { code, message, stack, cause } }: WireError): SlimViTError {
  const options = cause && { cause: Object.assign(new Error(cause.message), { name: cause.name }) };
  return Object.assign(new SlimViTError(code, message, options), { stack });
}
