/** A worker with its model, shared by all that load the same model: one download, one copy of the weights. */
import { proxy } from "comlink";
import { SlimViTError } from "../errors.ts";
import type { EnginePackage, LoadRequest, ModelHost, ModelInfo, Progress, WeightsStore } from "../protocol.ts";
import { part } from "./parts.ts";
import { type AnyHost, LOAD, runsHere, startHost } from "./startHost.ts";

/** What loads must have in common to share a worker: the request, and the objects that are not plain data. */
export interface Shared {
  request: LoadRequest;
  store?: WeightsStore;
  engines?: readonly EnginePackage[];
  host?: () => ModelHost;
  workerUrl?: string | URL | object;
}

/** A `SlimViT` that uses the model. */
export interface User {
  onProgress?: (progress: Progress) => unknown;
  onVariant?: (info: ModelInfo) => unknown;
  onLost(error: SlimViTError): void;
}

const alive = new Set<SharedModel>();

/** @returns the model of an equal request that still has users, or a new one; `user` has to `leave` it */
export function share(shared: Shared, user: User): SharedModel {
  const key = keyOf(shared);
  const model = [...alive].find((other) => other.matches(key, shared.store)) ?? new SharedModel(shared, key);
  alive.add(model);
  return model.join(user);
}

/** Files have no name of their own, so their key is undefined, which equals no other. */
function keyOf({ request, workerUrl }: Shared): string | undefined {
  return !("files" in request.source) ? JSON.stringify([request, workerUrl]) : undefined;
}

export class SharedModel {
  /** the info of the variant that answers calls without a variant */
  info: ModelInfo | undefined;
  /** by variant, as they were last */
  readonly infos = new Map<string, ModelInfo>();
  readonly users = new Set<User>();
  private host: Promise<AnyHost> | undefined;
  private close = () => {};
  private progress: Progress | undefined;

  constructor(
    private readonly shared: Shared,
    private readonly key: string | undefined,
  ) {}

  matches(key: string | undefined, store: WeightsStore | undefined): boolean {
    return key !== undefined && key === this.key && store === this.shared.store;
  }

  /** The worker with its model, started when it is not there or was lost. */
  connect(user: User): Promise<AnyHost> {
    if (this.host && this.progress) callBack(user.onProgress, this.progress);
    if (this.host) return this.host;
    const opening = this.open().catch((error) => {
      if (this.host === opening) this.disconnect();
      throw error;
    });
    this.host = opening;
    return opening;
  }

  /** Adds a user of the same model, who has to `leave` it. */
  join(user: User): SharedModel {
    this.users.add(user);
    return this;
  }

  /** The caller's own object, as it crosses to the worker. */
  pass<T extends object>(own: T): T {
    return runsHere(this.shared) ? own : proxy(own);
  }

  /** The last user ends the worker, and a download under way with it. Idempotent. */
  leave(user: User): void {
    this.users.delete(user);
    if (this.users.size) return;
    alive.delete(this);
    this.disconnect();
  }

  private disconnect(): void {
    this.close();
    this.close = () => {};
    this.host = undefined;
    this.progress = undefined;
  }

  private async open(): Promise<AnyHost> {
    const { request, store, engines = [] } = this.shared;
    const report = (news: Progress | ModelInfo) => {
      if ("variant" in news) return this.change(news);
      this.progress = news;
      for (const user of this.users) callBack(user.onProgress, news);
    };
    const locate = async (name: string) =>
      (await part(import("./beside.ts"))).locate(name, engines, runsHere(this.shared));
    const load = (host: AnyHost) =>
      host.load(LOAD, request, store && this.pass(store), this.pass(report), this.pass(locate)) as Promise<ModelInfo>;
    const { host, answer, close } = await startHost(this.shared, () => this.lose(), load);
    if (!this.users.size) {
      close();
      throw new SlimViTError("disposed", "The model was disposed of while it was loaded.");
    }
    this.close = close;
    this.note(await answer, true);
    return host;
  }

  /**
   * @param isChosen whether it is the variant that answers calls without a variant; else it is the same variant after a
   * change
   */
  note(info: ModelInfo, isChosen = false): void {
    this.infos.set(info.variant, info);
    if (isChosen || info.variant === this.info?.variant) this.info = info;
  }

  /** Whether another variant may come to answer. */
  get mayChange(): boolean {
    return this.shared.request.variant === undefined && this.info!.variants.length > 1;
  }

  /** Called when another variant has taken the place of the first. */
  private change(info: ModelInfo): void {
    const isOther = info.variant !== this.info?.variant;
    this.note(info, true);
    if (isOther) for (const { onVariant } of this.users) callBack(onVariant, info);
  }

  private lose(): void {
    this.disconnect();
    const message = "The worker stopped unexpectedly. The next call starts a fresh one.";
    for (const user of [...this.users]) user.onLost(new SlimViTError("worker-lost", message));
  }
}

/** Calls the user's function. Errors that it throws are ignored. */
export function callBack<T>(call: ((value: T) => unknown) | undefined, value: T): void {
  void Promise.resolve(value)
    .then(call)
    .catch(() => {});
}
