/**
 * The plan that the host writes into the memory and the kernels read: word offsets, where one word is 4 bytes. A word
 * that holds an address is 0 if there is nothing to point to. TypeScript and AssemblyScript both import this file, so it
 * has only numbers.
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

// A norm: three words and a gap, then its weights and its biases, both padded as the channels are.
export const NORM_DENSE_DIM = 0; // channels that mean and variance are of; cut ones are zeros
export const NORM_EPS = 1; // f32
export const NORM_BYTES = 2; // of the weights
export const NORM_WEIGHTS = 4;

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
export const HEAD_RELATIVE = 5; // relative positions: the head's table, as it is added to scores before their scale
export const HEAD_WORDS = 6;

export const ACTIVATION_NONE = 0;
export const ACTIVATION_GELU = 1;
export const ACTIVATION_GELU_TANH = 2;
export const ACTIVATION_QUICK_GELU = 3;
export const ACTIVATION_RELU = 4;
export const ACTIVATION_SILU = 5;

export const BLOCK_TOKENS = 0; // that enter
export const BLOCK_ROWS = 1; // queries: every token, in the last block those that the pooling reads
export const BLOCK_GATHER = 2; // row in BLOCK_FROM of each token; 0 when no token is dropped
export const BLOCK_FROM = 3;
export const BLOCK_X = 4; // the residual stream; BLOCK_FROM itself when no token is dropped
export const BLOCK_NORM1 = 5;
export const BLOCK_NORM2 = 6;
export const BLOCK_HEADS = 7;
export const BLOCK_HEAD_TABLE = 8;
export const BLOCK_TARGETS = 9;
export const BLOCK_INNER = 10; // channels of all heads, each padded to 8
export const BLOCK_MAP = 11; // the class token's attention [tokens], or the mean over all tokens'
export const BLOCK_KEY_ROWS = 12; // keys in rows [tokens, inner], where they are normed, turned or compared before use
export const BLOCK_Q_NORM = 13;
export const BLOCK_K_NORM = 14;
export const BLOCK_FREQUENCIES = 15; // RoPE: [2][inner / 2], in turns a unit of row and of column
export const BLOCK_HIDDEN_NORM = 16;
export const BLOCK_MLP_ROWS = 17;
export const BLOCK_MLP_X = 18; // the residual stream of the MLP; BLOCK_X itself when no token merges
export const BLOCK_MERGE = 19; // pairs
export const BLOCK_PARTNERS = 20; // for each of A the row in B that it merges into, or −1
export const BLOCK_FORCED = 21; // 1: the host has written BLOCK_PARTNERS
export const BLOCK_SIZES = 22; // f32 [tokens]: patches that each one stands for; 0 before the first merge, when all are 1
export const BLOCK_LOG_SIZES = 23; // [tokens padded to 8]: their logarithms, as they are added to scores before their scale
export const BLOCK_PLACES = 24; // RoPE: f32 [tokens][row, column]
export const BLOCK_MLP_SIZES = 25; // the three above after the merge
export const BLOCK_MLP_LOG_SIZES = 26;
export const BLOCK_MLP_PLACES = 27;
export const BLOCK_GRID = 28; // relative positions: for each token its row × (2 × columns − 1) + column
export const BLOCK_QKV = 29;
export const BLOCK_PROJ = BLOCK_QKV + LINEAR_WORDS;
export const BLOCK_FC1 = BLOCK_PROJ + LINEAR_WORDS;
export const BLOCK_FC2 = BLOCK_FC1 + LINEAR_WORDS;
export const BLOCK_WORDS = BLOCK_FC2 + LINEAR_WORDS;

export const POOL_CLASS = 0;
export const POOL_MEAN = 1;
export const POOL_CLASS_MEAN = 2;
export const POOL_MAP = 3;

export const PLAN_DIM = 0;
export const PLAN_DIM_BYTES = 1; // of a row padded to 8
export const PLAN_SCORE_SCALE = 2; // f32; of the softmax
export const PLAN_PREFIX = 3;
export const PLAN_BLOCKS = 4;
export const PLAN_BLOCK_TABLE = 5;
export const PLAN_PIXELS = 6;
export const PLAN_HEIGHT = 7;
export const PLAN_WIDTH = 8;
export const PLAN_PATCH = 9;
export const PLAN_PATCHES = 10; // embedded ones
export const PLAN_PATCH_TABLE = 11; // byte offset of each one's first pixel
export const PLAN_PATCH_ROWS = 12; // [patches, 3 × patch²]
export const PLAN_START = 13; // [tokens, dim]: position embeddings, and the prefix tokens themselves
export const PLAN_X = 14;
export const PLAN_NORMED = 15; // [tokens, dim]
export const PLAN_QUANTISED = 16; // [tokens, inputs] of an int8 linear
export const PLAN_RANGES = 17; // [tokens][scale, min] of PLAN_QUANTISED
export const PLAN_Q = 18;
export const PLAN_MIXED = 19; // [tokens, inner]
export const PLAN_HIDDEN = 20; // [tokens, mlpHidden padded to 8]
export const PLAN_SCRATCH = 21; // one piece a thread
export const PLAN_SCRATCH_BYTES = 22;
export const PLAN_SCRATCH_PANEL = 23; // offset in it of one widened panel; the calls and scores come first
export const PLAN_ZEROS = 24; // 8 f32
export const PLAN_SYNC = 25;
export const PLAN_THREADS = 26;
export const PLAN_SPINS = 27; // loads before a thread goes to sleep
export const PLAN_MAY_SLEEP = 28; // 0: the main thread is a page's, where Atomics.wait is forbidden
export const PLAN_PRE_NORM = 29;
export const PLAN_ACTIVATION = 30;
export const PLAN_GATED = 31; // 1: fc1's panels are gates, then as many values
export const PLAN_LOGS = 32; // [patches + 1]: what a size adds to scores before their scale
export const PLAN_SIMILARITIES = 33; // [A], and the panels of B's keys
export const PLAN_MERGE_PANELS = 34;
export const PLAN_MERGE_ROWS = 35; // for each row after the merge the row before it
export const PLAN_MERGE_NEXT = 36; // for each row before the merge the next of A that goes where it goes; 0 ends a chain
export const PLAN_RELATIVE_CENTRE = 37; // index in a relative table of a token's bias on itself
export const PLAN_RELATIVE_PREFIX = 38; // index of the first of the last three
export const PLAN_MAP_ROWS = 39; // number of queries that the maps are the mean of: 1, all, or 0 without maps
export const PLAN_PART_MAPS = 40; // a map for each attention task, where they are of all queries
export const PLAN_POOLING = 41;
export const PLAN_CLASS_ROWS = 42; // class and distillation token
export const PLAN_TOKEN_NORM = 43;
export const PLAN_POOLED_NORM = 44;
export const PLAN_POOLED_DIM = 45;
export const PLAN_POOLED = 46; // [class rows, dim], or one vector of pooled channels
export const PLAN_PROJECTED = 47; // 1: PLAN_PROJECTION is a linear
export const PLAN_FEATURES = 48; // the pooled vector, or its projection
export const PLAN_FEATURE_DIM = 49;
export const PLAN_CLASSIFIED = 50; // 1: PLAN_HEAD is a linear
export const PLAN_COSINE = 51; // 1: the head's inputs are divided by their length
export const PLAN_UNIT = 52; // room for them
export const PLAN_LOGITS = 53;
export const PLAN_LOGITS2 = 54;
export const PLAN_POOL_HEADS = 55; // attention pooling
export const PLAN_POOL_QUERY = 56; // [heads, dim]
export const PLAN_POOL_PANELS = 57; // of a head's values
export const PLAN_POOL_MIXED = 58; // [heads, dim]: tokens, each as much as a head attends to it
export const PLAN_POOL_VALUES = 59; // [heads × their width]
export const PLAN_POOL_NORM = 60;
export const PLAN_POOL_NORMED = 61;
export const PLAN_POOL_HIDDEN = 62;
export const PLAN_POOL_ACTIVATION = 63;
export const PLAN_EMBED = 64;
export const PLAN_PROJECTION = PLAN_EMBED + LINEAR_WORDS;
export const PLAN_HEAD = PLAN_PROJECTION + LINEAR_WORDS;
export const PLAN_HEAD2 = PLAN_HEAD + LINEAR_WORDS;
export const PLAN_POOL_V = PLAN_HEAD2 + LINEAR_WORDS;
export const PLAN_POOL_PROJ = PLAN_POOL_V + LINEAR_WORDS;
export const PLAN_POOL_FC1 = PLAN_POOL_PROJ + LINEAR_WORDS;
export const PLAN_POOL_FC2 = PLAN_POOL_FC1 + LINEAR_WORDS;
export const PLAN_WORDS = PLAN_POOL_FC2 + LINEAR_WORDS;

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
export const PHASES_A_STAGE = 20; // at most

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
