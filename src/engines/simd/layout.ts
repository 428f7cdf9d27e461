/**
 * The plan that the host writes into the memory and the kernels read: word offsets, one word = 4 bytes.
 * Imported by TypeScript and by AssemblyScript, so it holds nothing but numbers.
 */

// How a linear's weights are stored. int8 has one panel layout a binary: 4 inputs deep with relaxed dot, else 2 deep.
export const F32 = 0;
export const F16 = 1;
export const INT8 = 2;

// A linear [out, in], its weights in panels of 8 outputs.
export const LINEAR_KIND = 0;
export const LINEAR_PANELS = 1; // ⌈out / 8⌉
export const LINEAR_STEPS = 2; // inputs a panel walks over, in groups of 1 (f32, f16), 4 or 2 (int8, of inputs padded to 8)
export const LINEAR_INPUTS = 3;
export const LINEAR_WEIGHT = 4;
export const LINEAR_PANEL_BYTES = 5;
export const LINEAR_BIAS = 6; // f32, padded with zeros to whole panels, as are the two below
export const LINEAR_SCALE = 7; // of each output, where weights are levels of int8
export const LINEAR_SUM = 8; // int8: scale × the sum of each output's weights; then a word a panel: may its products be paired?
export const LINEAR_WORDS = 9;

// Where one panel of q, k or v goes.
export const TARGET_POINTER = 0;
export const TARGET_STRIDE = 1; // bytes from a token to the next (q, v), from 8 tokens to the next 8 (k)
export const TARGET_ROWS = 2;
export const TARGET_TRANSPOSED = 3; // k: 8 tokens side by side
export const TARGET_WORDS = 4;

export const HEAD_WIDTH = 0;
export const HEAD_PANELS = 1; // ⌈width / 8⌉
export const HEAD_OFFSET = 2; // bytes into a row of q, and of the mixed values
export const HEAD_KEYS = 3; // [tokens / 8][width, padded to 8][8]; for int8, quantised in their place
export const HEAD_VALUES = 4; // [width / 8][tokens][8]
export const HEAD_WORDS = 5;

export const BLOCK_TOKENS = 0;
export const BLOCK_ROWS = 1; // queries: every token, in the last block the prefix tokens
export const BLOCK_GATHER = 2; // row in BLOCK_FROM of each token; 0 when no token is dropped
export const BLOCK_FROM = 3;
export const BLOCK_X = 4; // the residual stream; BLOCK_FROM itself when no token is dropped
export const BLOCK_NORM1 = 5; // weight, then bias, each padded to 8
export const BLOCK_NORM2 = 6;
export const BLOCK_HEADS = 7;
export const BLOCK_HEAD_TABLE = 8;
export const BLOCK_TARGETS = 9;
export const BLOCK_INNER = 10; // channels of all heads, each padded to 8
export const BLOCK_MAP = 11; // the class token's attention [tokens]
export const BLOCK_QKV = 12;
export const BLOCK_PROJ = BLOCK_QKV + LINEAR_WORDS;
export const BLOCK_FC1 = BLOCK_PROJ + LINEAR_WORDS;
export const BLOCK_FC2 = BLOCK_FC1 + LINEAR_WORDS;
export const BLOCK_WORDS = BLOCK_FC2 + LINEAR_WORDS;

export const PLAN_DIM = 0;
export const PLAN_DIM_BYTES = 1; // of a row padded to 8
export const PLAN_EPS = 2; // f32, as is the next
export const PLAN_SCORE_SCALE = 3; // of the softmax
export const PLAN_PREFIX = 4;
export const PLAN_BLOCKS = 5;
export const PLAN_BLOCK_TABLE = 6;
export const PLAN_NORM = 7;
export const PLAN_PIXELS = 8;
export const PLAN_HEIGHT = 9;
export const PLAN_WIDTH = 10;
export const PLAN_PATCH = 11;
export const PLAN_PATCHES = 12; // embedded ones
export const PLAN_PATCH_TABLE = 13; // byte offset of each one's first pixel
export const PLAN_PATCH_ROWS = 14; // [patches, 3 × patch²]
export const PLAN_START = 15; // [tokens, dim]: position embeddings, and the prefix tokens themselves
export const PLAN_X = 16;
export const PLAN_NORMED = 17; // [tokens, dim]
export const PLAN_QUANTISED = 18; // [tokens, inputs] of an int8 linear
export const PLAN_RANGES = 19; // [tokens][scale, min] of PLAN_QUANTISED
export const PLAN_Q = 20;
export const PLAN_MIXED = 21; // [tokens, inner]
export const PLAN_HIDDEN = 22; // [tokens, mlpHidden padded to 8]
export const PLAN_SCRATCH = 23; // one piece a thread
export const PLAN_SCRATCH_BYTES = 24;
export const PLAN_SCRATCH_PANEL = 25; // offset in it of one widened panel; the calls and scores come first
export const PLAN_ZEROS = 26; // 8 f32
export const PLAN_LOGITS = 27;
export const PLAN_LOGITS2 = 28;
export const PLAN_FEATURES = 29; // [prefix, dim]
export const PLAN_SYNC = 30;
export const PLAN_THREADS = 31;
export const PLAN_SPINS = 32; // loads before a thread goes to sleep
export const PLAN_MAY_SLEEP = 33; // 0: the main thread is a page's, where Atomics.wait is forbidden
export const PLAN_EMBED = 34;
export const PLAN_HEAD = PLAN_EMBED + LINEAR_WORDS;
export const PLAN_HEAD2 = PLAN_HEAD + LINEAR_WORDS;
export const PLAN_WORDS = PLAN_HEAD2 + LINEAR_WORDS;

// The first cache lines of PLAN_SYNC; a line of [claimed, done] for each phase follows.
export const SYNC_EPOCH = 0;
export const SYNC_OPEN = 16;
export const SYNC_ACTIVE = 32;
export const SYNC_QUIT = 48;
export const SYNC_FROM = 64;
export const SYNC_TO = 65;
export const SYNC_PHASES = 80;
export const PHASE_WORDS = 32;
export const PHASE_DONE = 16;
export const PHASES_A_STAGE = 9;

/** Query rows that one attention task handles; bounds its scores [ATTENTION_ROWS, tokens padded to 8]. */
export const ATTENTION_ROWS = 24;

/** Room for one record of a call (assembly/calls.ts); each thread's scratch begins with two. */
export const CALL_BYTES = 64;

// The fields of a LinearCall.
export const LINEAR_CALL_LINEAR = 0;
export const LINEAR_CALL_X = 1;
export const LINEAR_CALL_X_STRIDE = 2;
export const LINEAR_CALL_RANGES = 3;
export const LINEAR_CALL_ROWS = 4;
export const LINEAR_CALL_DST = 5;
export const LINEAR_CALL_DST_STRIDE = 6;
