/** The kind of a file that is not a safetensors, by its first bytes, with one sentence for each kind. */
import { basename } from "node:path";
import { SlimViTError } from "../../src/errors.ts";

const PICKLES = /\.(pth|pt|bin|ckpt|pkl)$/;

/**
 * torch.save's zip, its older stream of pickles, or either by its name: no package of npm reads them.
 * @throws SlimViTError `unsupported`, saying what the file is and what to do
 */
export function refuseOtherKinds(bytes: Uint8Array, file: string): void {
  const starts = (...magic: number[]) => magic.every((byte, k) => bytes[k] === byte);
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, 256));
  const refuse = (what: string): never => {
    throw new SlimViTError("unsupported", `${file}: ${what}`);
  };
  if (text.startsWith("GGUF"))
    refuse("is a GGUF file, which holds quantised weights for llama.cpp; give the safetensors it was made from.");
  if (text.startsWith("version https://git-lfs"))
    refuse('is a pointer of Git LFS, not the file itself; fetch it with "git lfs pull".');
  if (text.startsWith("\x89HDF"))
    refuse("is an HDF5 file of Keras; convert its weights to safetensors with timm's or transformers' tensor names.");
  if (text.startsWith("\x93NUMPY")) refuse("is one array of NumPy; expected a safetensors file of named tensors.");
  if (text.startsWith("<!DOCTYPE") || text.startsWith("<html"))
    refuse("is a web page, not a checkpoint; download the file itself.");
  if (file.endsWith(".onnx") || isOnnx(bytes))
    refuse("is an ONNX graph, whose tensors no longer have names; give the safetensors it was exported from.");
  if (file.endsWith(".npz") || (starts(0x50, 0x4b, 3, 4) && /\.npy/.test(text)))
    refuse(
      "is a .npz of NumPy, as JAX's ViTs are published in; load it with timm and save it with safetensors.torch.save_file.",
    );
  if (file.endsWith(".msgpack"))
    refuse("is a checkpoint of Flax; load it with transformers (from_flax=True) and save it as safetensors.");
  if (file.endsWith(".tflite") || text.slice(4, 8) === "TFL3")
    refuse("is a TensorFlow Lite model; give the safetensors it was made from.");
  if (starts(0x50, 0x4b, 3, 4) || starts(0x80, 2) || PICKLES.test(file)) refusePickle(file);
}

/** Protocol buffers have no magic. A ModelProto begins with its version (field 1) and its producer (field 2). */
function isOnnx(bytes: Uint8Array): boolean {
  return bytes[0] === 0x08 && bytes[1] < 32 && (bytes[2] === 0x12 || bytes[2] === 0x3a);
}

function refusePickle(file: string): never {
  const name = basename(file);
  throw new SlimViTError(
    "unsupported",
    `${file}: is a PyTorch pickle, which can run code when it is read. Convert it once: ` +
      `python -c "import argparse, torch, safetensors.torch as s; ` +
      // Training scripts leave their arguments beside the weights; torch 2.4 and later must be told that they are harmless.
      `getattr(torch.serialization, 'add_safe_globals', list)([argparse.Namespace]); ` +
      `d = torch.load('${name}', map_location='cpu', weights_only=True); d = d.get('model', d.get('state_dict', d)); ` +
      `s.save_file({k: v.detach().clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, 'model.safetensors')".`,
  );
}

/** @throws SlimViTError `unsupported` for an adapter, which is a part of a model, and for weights quantised by their own rules */
export function refuseAdapters(names: string[], source: string): void {
  const lora = names.find((name) => /\.lora_[AB]\.|lora_(up|down)\.|\.base_layer\./.test(name));
  if (lora)
    throw new SlimViTError(
      "unsupported",
      `${source}: is a LoRA adapter or has one ("${lora}"); merge it into its model first (peft: model.merge_and_unload()) and save that.`,
    );
  const quantised = names.find((name) =>
    /\.(qweight|qzeros|SCB|absmax|quant_state.*|weight_scale|weight_packed)$/.test(name),
  );
  if (quantised)
    throw new SlimViTError(
      "unsupported",
      `${source}: holds quantised weights ("${quantised}"); give the model in f32, f16 or bf16, and let "slimvit export" quantise it.`,
    );
}
