/** Whether 8 bits are worth it for this model: how much faster they are here, and whether the answers stay the same. */
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { say } from "../shared/terminal.ts";
import type { Builder } from "./build.ts";
import { decided } from "./decided.ts";
import { type CostName, type PointMeasurer, timeInTurn } from "./measure.ts";
import { DENSE, type Space, settingOf } from "./space.ts";
import type { Target } from "./target.ts";

const ROUNDS = 7;
/** Where int8 changes a larger share of the best classes, its loss is measured before it is taken. */
const SAME_ENOUGH = 0.02;

/**
 * @param file keeps the speed that was measured, so that a search that goes on counts as before
 * @returns the space with the dtypes that are worth a look, int8 alone where it changes next to nothing, and the time of int8 as a
 *   share of that of f16
 */
export async function int8Choice(
  space: Space,
  target: Target,
  builder: Builder,
  measurerFor: (space: Space, cost: CostName, int8Factor: number) => PointMeasurer,
  file: string,
  identity: string,
): Promise<{ space: Space; int8Factor: number }> {
  const only = (dtype: "f16" | "int8", int8Factor: number) => ({ space: { ...space, dtype: [dtype] }, int8Factor });
  const int8 = { ...DENSE, dtype: space.dtype.indexOf("int8") };
  let factor: number;
  try {
    factor = await decided(file, identity, async () => {
      const models = [await builder.build(settingOf(space, DENSE)), await builder.build(settingOf(space, int8))];
      const [f16Ms, int8Ms] = await timeInTurn(models, ROUNDS);
      return Number((int8Ms / f16Ms).toPrecision(2));
    });
  } catch (error) {
    if (!(error instanceof SlimViTError) || error.code !== "bad-model") throw error;
    say(`slim: int8 is left out: ${messageOf(error)}`);
    return only("f16", 1);
  }
  const measurer = measurerFor(space, "macs", factor);
  const isSame = (await measurer.closeness(int8, 1)).disagreement <= SAME_ENOUGH;
  if (target.kind !== "loss") return only(isSame ? "int8" : "f16", factor);
  if (isSame && (await measurer.loss(int8)) <= target.most) return only("int8", factor);
  return { space, int8Factor: Math.min(factor, MOST_FACTOR) };
}

/** Where both dtypes are searched, int8 must count as a step with a saving. */
const MOST_FACTOR = 0.99;
