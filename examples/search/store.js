/** What is known of the pictures, kept between visits in IndexedDB: each one's vector and a small copy to show. */
const STORE = "pictures";

/** @param {string} name one database for each model and dtype: vectors of others are not to be compared */
export async function openStore(name) {
  const opening = indexedDB.open(name, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "key" });
  const database = await settled(opening);
  const store = (mode) => database.transaction(STORE, mode).objectStore(STORE);
  return {
    /** @returns {Promise<{ key: string, name: string, vector: Float32Array, thumbnail: Blob }[]>} */
    all: () => settled(store("readonly").getAll()),
    put: (entry) => settled(store("readwrite").put(entry)),
    clear: () => settled(store("readwrite").clear()),
  };
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
