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
    "instead of three budgets: share of the searched model's dense MACs, split by importance",
    shareOrNothing,
  ),
  params: optional("--params [share]", "the same for the dense parameters; tokens have none and stay", shareOrNothing),
  latencyMs: optional("--latency-ms <ms>", "instead: milliseconds on the device of --profile", positive),
  profile: optional("--profile <file>", "what slimvit profile measured there", path),
  budgets: optional("--budgets <list>", "shares of MACs (or --params): a model each, OUT/macs-70 and so on", shares),
  tokens: choice(
    "--tokens <rule>",
    "a shallow block keeps what a deeper one needs; or dropped is dropped",
    TOKEN_RULES,
    "union",
  ),
  absolute: flag("--absolute", "rank by |ζ| instead of signed ζ"),
  weights: optional(
    "--weights <model>",
    "dense model whose weights are cut in place of the search's, which then only chooses",
    path,
  ),
  compensate: flag("--compensate", "solve the next linears again for what is kept, from the pictures of --data"),
  merge: flag(
    "--merge",
    "with --macs or --latency-ms: tokens merge where that loses less, tried on the pictures of --data",
  ),
  ...optionalData("with --compensate and --merge: pictures, labels not needed", "train"),
  name: NAME,
  force: FORCE,
  seed: SEED,
};
