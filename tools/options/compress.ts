import { TOKEN_RULES } from "./search.ts";
import { FORCE, NAME, OUT, optionalData, SEED } from "./shared.ts";
import { choice, flag, optional } from "./spec.ts";
import { fraction, path, positive, share, shares } from "./values.ts";

/** A share, or `true` where --budgets has the shares. */
const shareOrNothing = (value: unknown): number | true => share(value);

export const COMPRESS = {
  out: OUT,
  attn: optional("--attn <budget>", "share of attention channels (or heads) to keep", fraction),
  mlp: optional("--mlp <budget>", "share of MLP units to keep", fraction),
  patch: optional("--patch <budget>", "share of tokens over all blocks to keep", fraction),
  macs: optional(
    "--macs [share]",
    "instead of three budgets: share of the dense MACs to keep; units are ranked by importance per MAC",
    shareOrNothing,
  ),
  params: optional(
    "--params [share]",
    "instead: share of the dense parameters to keep; all tokens stay",
    shareOrNothing,
  ),
  latencyMs: optional("--latency-ms <ms>", "instead: latency on the device of --profile", positive),
  profile: optional("--profile <file>", "file that slimvit profile wrote on that device", path),
  budgets: optional(
    "--budgets <list>",
    "shares of MACs (or parameters), one model for each: OUT/macs-70 and so on",
    shares,
  ),
  tokens: choice(
    "--tokens <rule>",
    "union: a block keeps every token that a deeper one keeps; intersect: a dropped token stays dropped",
    TOKEN_RULES,
    "union",
  ),
  absolute: flag("--absolute", "rank by |ζ| instead of signed ζ"),
  weights: optional(
    "--weights <model>",
    "cut the weights of this dense model; the search only chooses what to cut",
    path,
  ),
  compensate: flag("--compensate", "solve the next linears again for the kept inputs, from the pictures of --data"),
  merge: flag(
    "--merge",
    "with --macs or --latency-ms: merge tokens where that loses less, measured on the pictures of --data",
  ),
  ...optionalData("with --compensate or --merge: pictures, without need of labels", "train"),
  name: NAME,
  force: FORCE,
  seed: SEED,
};
