// The camera, for the first screen and for teaching.

/** @param {HTMLVideoElement} video plays it @returns {Promise<MediaStream>} @throws Error that says what to do */
export async function openCamera(video) {
  try {
    if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
    const wanted = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    video.srcObject = stream;
    await video.play();
    return stream;
  } catch (error) {
    throw new Error(ADVICE[error.name] ?? ADVICE.other);
  }
}

/** @param {MediaStream} stream */
export function stopCamera(stream) {
  for (const track of stream.getTracks()) track.stop();
}

const ADVICE = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser's settings, then try again.",
  NotFoundError: "There is no camera here. Choose a picture instead.",
  NotReadableError: "The camera is in use by another program. Close it there, then try again.",
  SecurityError: "Browsers offer the camera to pages on https only. Choose a picture instead.",
  other: "The camera did not start. Choose a picture instead.",
};
