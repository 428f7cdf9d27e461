import { SlimViT } from "slimvit";
import { onWatcherCleanup, shallowRef, toValue, watchEffect } from "vue";

/**
 * A model for as long as the component lives; `url` may change. Components that load the same share its worker.
 * The model is in a shallowRef, because Vue's deep proxies would hide its private fields.
 */
export function useSlimViT(url) {
  const vit = shallowRef();
  const error = shallowRef();
  watchEffect(() => {
    const leaving = new AbortController();
    const loading = SlimViT.load(toValue(url), { signal: leaving.signal });
    vit.value = error.value = undefined; // the model before is being disposed of
    loading.then(
      (loaded) => leaving.signal.aborted || (vit.value = loaded),
      (failure) => leaving.signal.aborted || (error.value = failure),
    );
    onWatcherCleanup(() => {
      leaving.abort(); // stops a download under way …
      loading.then((loaded) => loaded.dispose()).catch(() => {}); // … and frees a model that is there
    });
  });
  return { vit, error };
}
