// Ends the camera while its dialog is closed, and begins it again when the dialog is opened again.
//
// Gradio: 6.31.0
// Defect: gr.Image ends the stream of a webcam only when the component leaves the page, and an update of `visible` draws the whole
//   page again (see hidden_components.py). The camera of a closed dialog would run on, with its light, for the next visitor too.
// Report: no upstream report known
// Test: tests/browser/ui/test_attachments.py::test_closing_the_camera_ends_it_and_it_can_be_opened_again
const cameraVideo = () => document.querySelector("#camera video");
const isCameraShown = () => !!document.querySelector("#camera-dialog:not(.is-hidden)");
let resumedStream = null; // Gradio does not know this stream, so it would not end it after a photo

function endCamera() {
  for (const stream of [cameraVideo()?.srcObject, resumedStream]) stream?.getTracks().forEach((track) => track.stop());
  resumedStream = null;
}

async function resumeCamera() {
  const video = cameraVideo();
  if (!video?.srcObject || video.srcObject.active) return;
  const stream = await navigator.mediaDevices.getUserMedia({ video: true }).catch(() => null);
  if (!stream) return;
  resumedStream = stream;
  video.srcObject = stream;
  if (isCameraShown()) await video.play().catch(() => null);
  else endCamera();
}

// The browser may give the camera when the dialog was closed already.
document.addEventListener("loadedmetadata", (event) => event.target === cameraVideo() && !isCameraShown() && endCamera(), true);
