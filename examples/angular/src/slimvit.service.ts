import { Injectable, type OnDestroy } from "@angular/core";
import { SlimViT } from "slimvit";

/** One model for everything that injects it; freed with the injector. */
@Injectable({ providedIn: "root" })
export class SlimViTService implements OnDestroy {
  private readonly leaving = new AbortController();

  readonly model: Promise<SlimViT> = SlimViT.load("/models/deit-tiny-slim/", { signal: this.leaving.signal });

  ngOnDestroy(): void {
    this.leaving.abort(); // stops a download under way …
    this.model.then((vit) => vit.dispose()).catch(() => {}); // … and frees a model that is there
  }
}
