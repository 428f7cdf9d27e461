import { useEffect, useState } from "react";
import { SlimViT } from "slimvit";

/** A model for as long as the component lives. Components that load the same share its worker. */
export function useSlimViT(url) {
  const [state, setState] = useState({ url });
  useEffect(() => {
    const leaving = new AbortController();
    const loading = SlimViT.load(url, { signal: leaving.signal });
    loading.then(
      (vit) => leaving.signal.aborted || setState({ url, vit }),
      (error) => leaving.signal.aborted || setState({ url, error }),
    );
    return () => {
      leaving.abort(); // stops a download under way …
      loading.then((vit) => vit.dispose()).catch(() => {}); // … and frees a model that is there
    };
  }, [url]);
  return state.url === url ? state : {}; // a render with a new address comes before the effect that frees the model of the old one
}
