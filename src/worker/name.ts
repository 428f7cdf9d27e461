/** Of our workers, of their Trusted Types policy, and of nothing else: by it worker.js knows that it is to answer calls. */
export const WORKER_NAME = "slimvit";
