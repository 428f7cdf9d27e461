// biome-ignore-all lint/suspicious/noTemplateCurlyInString: the faults are text of the sources.
/** Faults of training and masks in networks beyond DeiT, and in tokens that merge. */
import type { Plant } from "./plant.ts";

const FORWARD = "test/tfjs/family.test.ts";
const GRADIENTS = "test/tfjs/familyGradients.test.ts";
const MASKS = "test/tools/masks/family.test.ts";
const STAGES = "test/tools/family.test.ts";
const LOSSES = "test/tools/training/losses.test.ts";

export const FAMILY: Plant[] = [
  {
    name: "a merged token is the plain mean of its rows, whatever they stand for",
    file: "src/tfjs/merge.ts",
    find: "const shares = sizes ? tf.mul(member, tf.reshape(sizes, [batch, 1, tokens])) : member;",
    plant: "const shares = member;",
    tests: [FORWARD],
  },
  {
    name: "keys are compared without their bias",
    file: "src/tfjs/attention.ts",
    find: "const shifted = keyShift ? tf.add(keys, keyShift) : keys;",
    plant: "const shifted = keyShift ? keys : keys;",
    tests: [FORWARD],
  },
  {
    name: "the gradient of a relative bias counts a pair of places once",
    file: "src/tfjs/positions.ts",
    find: "return tf.sum(tf.reshape(gathered, [heads, places, most]), 2);",
    plant: "return tf.max(tf.reshape(gathered, [heads, places, most]), 2);",
    tests: [GRADIENTS],
  },
  {
    name: "the norm of a slim head's keys counts its own channels alone",
    file: "src/tfjs/attention.ts",
    find: "normalise(tf, t, normEps?.qk ?? layerNormEps, headDim)",
    plant: "normalise(tf, t, normEps?.qk ?? layerNormEps)",
    tests: [FORWARD],
  },
  {
    name: "a token that is masked stays in the mean",
    file: "tools/masks/masks.ts",
    find: "return { poolGates: tf.add(tf.relu(gates.at(-1)!), LEAST_POOL_GATE) };",
    plant: "return {};",
    tests: [MASKS],
  },
  {
    name: "ζ is folded behind the norm inside the MLP alone",
    file: "tools/masks/masks.ts",
    find: 'rowsTimes("mlp.fc1", tf.concat([tf.ones([block.mlpHidden]), mlp], 0));',
    plant: "",
    tests: [MASKS],
  },
  {
    name: "the last patch may leave a network that takes means",
    file: "tools/masks/allocate.ts",
    find: "(!mayEmpty(block) && state[block].tokens === prefixTokens + 1)",
    plant: "false",
    tests: [MASKS],
  },
  {
    name: "fc2 is solved for units as they were before others left the norm",
    file: "tools/masks/compensate.ts",
    find: "if (arch.hiddenNorm && masks[i].mlp.includes(false)) {",
    plant: "if (false) {",
    tests: [STAGES],
  },
  {
    name: "the loss of several labels has the slope of the other sign",
    file: "tools/training/losses.ts",
    find: "tf.mul(tf.div(dy, batch), tf.sub(tf.sigmoid(xt), wanted))",
    plant: "tf.mul(tf.div(dy, batch), tf.sub(wanted, tf.sigmoid(xt)))",
    tests: [LOSSES],
  },
];
