/** Tensors in the form in which the GPU stores them. */
import type { Tensor, Tensors } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import type { WeightForm } from "./product.ts";
import { align4 } from "./shader.ts";

export interface PackedLinear {
  form: WeightForm;
  /** [inDim / inputs a word, outDim], inDim rounded up to 4 with zeros; empty for a linear without inputs */
  words: Float32Array | Uint32Array;
  /** bias [outDim], int8's scale [outDim], the norm's weight [inDim], those of them that the shader reads */
  vectors: Float32Array;
}

const FORMS: Record<Tensor["dtype"], WeightForm> = { F32: "f32", F16: "f16", I8: "int8" };
const INPUTS_A_WORD: Record<WeightForm, number> = { f32: 1, f16: 2, int8: 4 };

/**
 * A linear layer, and the layer norm before it: the norm's bias goes into the layer's, its weight into f32 weights.
 *
 * @param name the tensors' name without `.weight` and `.bias`
 * @param norm the norm's name
 */
export function packLinear(tensors: Tensors, name: string, norm?: string): PackedLinear {
  const tensor = tensors.get(`${name}.weight`)!;
  const outDim = tensor.shape[0];
  const inDim = outDim ? tensor.data.length / outDim : 0;
  const form = FORMS[tensor.dtype];
  const bias = tensors.has(`${name}.bias`) ? float32(tensors, `${name}.bias`) : new Float32Array(outDim);
  const gain = norm === undefined ? undefined : float32(tensors, `${norm}.weight`);
  const parts = [norm === undefined ? bias : addShift(tensors, name, float32(tensors, `${norm}.bias`))];
  if (form === "int8") parts.push(tensors.get(`${name}.scale`)!.data as Float32Array);
  if (gain && form !== "f32") parts.push(padded(gain));
  const data = form === "f32" && gain ? (tensor.data as Float32Array).map((v, i) => v * gain[i % inDim]) : tensor.data;
  return { form, words: transposed(data, outDim, inDim, form), vectors: joined(parts) };
}

export function joined(parts: Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function padded(values: Float32Array): Float32Array {
  const out = new Float32Array(align4(values.length));
  out.set(values);
  return out;
}

/** bias + W shift: what the layer makes of the norm's bias. */
function addShift(tensors: Tensors, name: string, shift: Float32Array): Float32Array {
  const bias = float32(tensors, `${name}.bias`);
  const weight = float32(tensors, `${name}.weight`);
  return bias.map((value, row) => {
    let sum = value;
    for (let i = 0; i < shift.length; i++) sum += weight[row * shift.length + i] * shift[i];
    return sum;
  });
}

/** [outDim, inDim] → words of consecutive inputs, [inDim / inputs a word, outDim]. */
function transposed(data: Tensor["data"], outDim: number, inDim: number, form: WeightForm): Float32Array | Uint32Array {
  const inputs = INPUTS_A_WORD[form];
  const count = (align4(inDim) / inputs) * outDim;
  const words = form === "f32" ? new Float32Array(count) : new Uint32Array(count);
  const mask = form === "int8" ? 0xff : 0xffff;
  for (let row = 0, from = 0; row < outDim; row++) {
    if (form === "f32") {
      for (let i = 0, at = row; i < inDim; i++, at += outDim) words[at] = data[from++];
    } else {
      const bits = 32 / inputs;
      for (let i = 0; i < inDim; i++) {
        words[Math.floor(i / inputs) * outDim + row] |= (data[from++] & mask) << (bits * (i % inputs));
      }
    }
  }
  return words;
}
