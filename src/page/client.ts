/**
 * A loaded model as one caller has it: its calls in flight, its variant, and what it was taught. `SlimViT` is its public
 * form.
 */
import { asSlimViTError, SlimViTError } from "../errors.ts";
import type {
  CallId,
  Classification,
  ClassifyOptions,
  EmbedOptions,
  ImageInput,
  LoadOptions,
  ModelInfo,
  ModelSource,
  RunRequest,
  RunResult,
  TaughtModel,
  VariantRequest,
} from "../protocol.ts";
import { advise } from "./advise.ts";
import { MIN_IN_FLIGHT } from "./batch.ts";
import { disposedError, PendingCalls } from "./pendingCalls.ts";
import { handOver, prepareTransfer } from "./pictures.ts";
import { loadRequest, plainCopy, useRequest } from "./requests.ts";
import { type Shared, type SharedModel, share, type User } from "./sharedModel.ts";
import type { AnyHost } from "./startHost.ts";

/** @throws SlimViTError as `SlimViT.load` */
export async function openClient(source: ModelSource, options: LoadOptions): Promise<Client> {
  const { cache = true, workerUrl, engines, host, signal } = options;
  const store = typeof cache === "object" ? cache : undefined;
  const shared: Shared = { request: await loadRequest(source, options), store, engines, host, workerUrl };
  const client = new Client((user) => share(shared, user), options);
  try {
    await client.connect(signal);
    return client;
  } catch (error) {
    client.dispose();
    throw error;
  }
}

/** What a model was taught. */
export interface Taught {
  model: TaughtModel;
  /** @returns the same object for the same info */
  describe(info: ModelInfo): ModelInfo;
}

export class Client {
  readonly shared: SharedModel;
  readonly calls = new PendingCalls();
  /** What this model was taught. Other models that share the worker were not. */
  taught: Taught | undefined;
  private readonly user: User;
  /** The variant that `use` asked for; undefined for the one that loading chose. */
  private variant: string | undefined;

  constructor(join: (user: User) => SharedModel, { onProgress, onVariant }: LoadOptions = {}) {
    this.user = { onProgress, onVariant, onLost: (error) => this.calls.rejectAll(error) };
    this.shared = join(this.user);
  }

  /** Another model on the same worker, without taught classes. */
  another(): Client {
    return new Client((user) => this.shared.join(user));
  }

  /** A new object whenever it changes. */
  get info(): ModelInfo {
    const info = this.infoOf(this.variant ?? this.shared.info!.variant)!; // `load` resolves only when it is there
    return this.taught?.describe(info) ?? info;
  }

  infoOf(variant: string): ModelInfo | undefined {
    return this.shared.infos.get(variant);
  }

  /** Pictures in flight at once: while an engine computes one batch, the next is sent. */
  get inFlight(): number {
    return Math.max(MIN_IN_FLIGHT, 2 * (this.shared.info?.batchSize ?? 1));
  }

  connect(signal?: AbortSignal): Promise<AnyHost> {
    return this.calls.settle(signal, () => this.shared.connect(this.user));
  }

  async embed(image: ImageInput, { region, signal }: EmbedOptions): Promise<Float32Array> {
    return (await this.run(image, { want: "features", region }, signal)).features;
  }

  /** @param variant in place of the one that answers */
  async classify(
    image: ImageInput,
    { signal, ...options }: ClassifyOptions,
    variant?: string,
  ): Promise<Classification> {
    const start = performance.now();
    const head = this.taught?.model.head;
    const result = await this.run(image, { ...plainCopy(options), want: "classes", head, variant }, signal);
    const { features: _, info: __, ...classification } = result;
    return { ...classification, latencyMs: { ...result.latencyMs, total: performance.now() - start } };
  }

  use(variant: VariantRequest): Promise<ModelInfo> {
    return this.calls.settle(undefined, async (call) => {
      if (this.taught)
        throw new SlimViTError("unsupported", await advise(({ oneVariant }) => oneVariant(), "It was taught."));
      const host = await this.shared.connect(this.user);
      const info = (await host.use(call, useRequest(variant)).catch((error) => {
        throw asSlimViTError(error);
      })) as ModelInfo;
      this.shared.note(info);
      this.variant = info.variant;
      return info;
    });
  }

  /** Calls the worker. The caller's signal also ends the call in the worker. */
  ask<T>(signal: AbortSignal | undefined, work: (host: AnyHost, call: CallId) => Promise<T>): Promise<T> {
    return this.calls.settle(signal, async (call, ended) => work(await this.hostFor(call, ended), call));
  }

  dispose(): void {
    this.calls.close();
    this.shared.leave(this.user);
  }

  /** @param ended fires when the result is no longer wanted */
  private async hostFor(call: CallId, ended: AbortSignal): Promise<AnyHost> {
    const host = ended.aborted ? undefined : await this.shared.connect(this.user);
    if (!host || ended.aborted) throw disposedError();
    ended.addEventListener("abort", () => void host.abort(call));
    return host;
  }

  private run(image: ImageInput, request: RunRequest, signal?: AbortSignal): Promise<RunResult> {
    return this.calls.settle(signal, async (call, ended) => {
      const picture = await prepareTransfer(image, ended);
      try {
        const host = await this.hostFor(call, ended);
        const named = { ...request, variant: request.variant ?? this.variant };
        const result = (await host.run(call, handOver(picture), named)) as RunResult;
        if (result.info) this.shared.note(result.info);
        return result;
      } catch (error) {
        if (picture.kind !== "bitmap" || (error as Error)?.name !== "DataCloneError") throw asSlimViTError(error);
        const fault = await advise(({ unreadable }) => unreadable(), "The image's pixels may not be read.");
        throw new SlimViTError("bad-input", fault, { cause: error });
      } finally {
        if (picture.kind === "bitmap") picture.bitmap.close(); // without effect on one that was handed over
      }
    });
  }
}
