/** A compiled network with its input and output tensors. */
import type { Model } from "../../format/model.ts";
import { type FloatType, GraphBuilder } from "./builder.ts";
import { INPUT, keptPatches, writeNetwork } from "./network.ts";

export type { FloatType };

export interface Program {
  /** Runs the graph, one run at a time. Inputs that the graph does not have are ignored. */
  run(inputs: Record<string, Float32Array<ArrayBuffer>>): Promise<Record<string, Float32Array>>;
  destroy(): void;
}

/**
 * Input `patches`; `output` is the logits, if any, and the features.
 *
 * @param explain further outputs: `map0` … and `rows0` … of those blocks that have them
 * @throws SlimViTError `unsupported` where the context lacks an operator
 */
export async function compile(context: MLContext, model: Model, type: FloatType, explain = false): Promise<Program> {
  const builder = new GraphBuilder(context, context.opSupportLimits(), type);
  const { logits, features, maps, rows } = writeNetwork(builder, model, explain);
  const outputs: Record<string, MLOperand> = { output: builder.concat(logits ? [logits, features] : [features], 1) };
  maps.forEach((map, i) => void (map && (outputs[`map${i}`] = map)));
  if (explain) rows.forEach((row, i) => void (row && (outputs[`rows${i}`] = row)));
  for (const [name, operand] of Object.entries(outputs))
    if (type !== "float32") outputs[name] = builder.op("cast", operand, "float32");
  const shapes = Object.entries(outputs).map(([name, { shape }]): [string, number[]] => [name, [...shape]]);
  const graph = await builder.build(outputs);
  const { manifest } = model;
  const patches = keptPatches(manifest).length;
  const inputShapes: [string, number[]][] = patches ? [[INPUT, [patches, 3 * manifest.patchSize ** 2]]] : [];
  const tensors = (all: [string, number[]][], writable: boolean) =>
    Promise.all(
      all.map(async ([name, shape]): Promise<[string, MLTensor]> => {
        return [name, await context.createTensor({ dataType: "float32", shape, writable, readable: !writable })];
      }),
    ).then(Object.fromEntries) as Promise<Record<string, MLTensor>>;
  const read = await tensors(inputShapes, true);
  const written = await tensors(shapes, false);
  return {
    async run(inputs) {
      for (const [name, tensor] of Object.entries(read)) context.writeTensor(tensor, inputs[name]);
      context.dispatch(graph, read, written);
      const results = Object.entries(written).map(async ([name, tensor]): Promise<[string, Float32Array]> => {
        return [name, new Float32Array(await context.readTensor(tensor))];
      });
      return Object.fromEntries(await Promise.all(results));
    },
    destroy() {
      for (const tensor of [...Object.values(read), ...Object.values(written)]) tensor.destroy();
      graph.destroy();
    },
  };
}
