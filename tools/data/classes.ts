/** Matches class names with a model's labels, and the classes of one model with those of another. */
import { SlimViTError } from "../../src/errors.ts";
import type { Label } from "../../src/format/model.ts";

/**
 * The form in which names are compared. Composed or separate accents, a finetuned model's spaces for the folders'
 * underscores, and spaces around a name make no difference.
 */
export const comparable = (name: string): string => name.normalize("NFC").replaceAll("_", " ").trim();

/** Ids without meaning: the classes' positions, which an import uses where a checkpoint has no ids. */
const areInvented = (labels: Label[]): boolean => labels.every(({ id }, index) => id === String(index));

type Keys = Map<string, number[]>;

function keysOf(labels: Label[], of: (label: Label) => string): Keys {
  const keys: Keys = new Map();
  labels.forEach((label, index) => {
    const key = comparable(of(label));
    keys.set(key, [...(keys.get(key) ?? []), index]);
  });
  return keys;
}

/** Labels without meaning: "class 0", "class 1", … */
const areNameless = (labels: Label[]): boolean => labels.every(({ label }, index) => label === `class ${index}`);

/**
 * The model's output index of each class name. All names are looked up in one way: as ids where all of them are ids, else as
 * labels where all of them are labels, else each as whichever it is. Ids that an import made up come last.
 *
 * @throws SlimViTError `bad-input` for a name that the model does not know, or has twice
 */
export function labelIndices(classNames: string[], labels: Label[]): Map<string, number> {
  const unknown = unknownClass(classNames, labels);
  if (unknown) {
    const advice =
      "Use data of the model's own classes, finetune the model first, or give --unlabelled where labels are not needed.";
    throw new SlimViTError("bad-input", `${unknown}. ${advice}`);
  }
  const ways = waysOf(labels);
  const whole = ways.find((keys) => classNames.every((name) => keys.get(comparable(name))?.length === 1));
  return new Map(
    classNames.map((name) => {
      const key = comparable(name);
      const found = (whole ?? ways.find((keys) => keys.has(key))!).get(key)!;
      if (found.length > 1) {
        const ids = found.map((index) => `"${labels[index].id}"`).join(", ");
        throw new SlimViTError(
          "bad-input",
          `Class folder "${name}" is the name of ${found.length} classes of the model, ${ids}. Name the folder by the id.`,
        );
      }
      return [name, found[0]];
    }),
  );
}

/** A message about the first class that the model does not know: `Class folder "kiwi" is none of …`. */
export function unknownClass(classNames: string[], labels: Label[]): string | undefined {
  const ways = waysOf(labels);
  const name = classNames.find((name) => !ways.some((keys) => keys.has(comparable(name))));
  if (name === undefined) return undefined;
  return `Class folder "${name}" is none of the model's ${labels.length} labels (the first is "${labels[0].label}")`;
}

/** The ways in which a class can be named, the most certain first. */
function waysOf(labels: Label[]): Keys[] {
  const byId = keysOf(labels, ({ id }) => id);
  const byLabel = keysOf(labels, ({ label }) => label);
  return areInvented(labels) ? [byLabel, byId] : [byId, byLabel];
}

/**
 * The positions of a model's classes in another model.
 *
 * @param name of the other model, for messages
 * @returns `order[k]`: the index in `other` of class k of `labels`
 * @throws SlimViTError `bad-option` where the classes are not the same
 */
export function classOrder(labels: Label[], other: Label[], name: string): number[] {
  if (labels.length !== other.length)
    throw new SlimViTError(
      "bad-option",
      `${name}: has ${other.length} classes, and ${labels.length} are needed; both models must know the same classes. ` +
        "Finetune it on the same data first.",
    );
  // Classes without names can only be told apart by their positions.
  if ([labels, other].some((some) => areNameless(some) && areInvented(some))) return labels.map((_, index) => index);
  const idOf = ({ id }: Label) => id;
  const labelOf = ({ label }: Label) => label;
  const haveIds = !areInvented(labels) && !areInvented(other);
  for (const nameOf of haveIds ? [idOf, labelOf] : [labelOf]) {
    const order = matched(labels.map(nameOf), other.map(nameOf));
    if (order) return order;
  }
  const missing = labels.find(({ label }) => !other.some((one) => comparable(one.label) === comparable(label)));
  const example = missing ? `"${missing.label}" is not among its labels` : "some names are of several classes";
  throw new SlimViTError(
    "bad-option",
    `${name}: has other classes (${example}); both models must know the same classes. Finetune it on the same data first.`,
  );
}

/** The position of each name among the others; undefined where the names differ or a position is ambiguous. */
function matched(names: string[], others: string[]): number[] | undefined {
  const [own, all] = [names.map(comparable), others.map(comparable)];
  if (own.every((name, index) => name === all[index])) return own.map((_, index) => index);
  const places = new Map(all.map((name, index) => [name, index]));
  const areUnique = places.size === all.length && new Set(own).size === own.length;
  return areUnique && own.every((name) => places.has(name)) ? own.map((name) => places.get(name)!) : undefined;
}
