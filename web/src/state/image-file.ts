/** Check of an image before it is sent, so that what cannot work is told at once. */
import { ApiError } from "../api/errors";

/** As on the server: `web/upload.py` and `web/security.py`. */
const TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const BYTES = 10e6;
const PIXELS = 50e6;

function refused(value: string, expected: string, remedy: string): ApiError {
  return new ApiError(0, "ImageError", value, expected, remedy);
}

/** Throw an `ApiError` unless a file is an image that can be searched for. */
export async function checkImage(file: Blob): Promise<void> {
  const name = file instanceof File && file.name ? `“${file.name}”` : "The image";
  if (!TYPES.includes(file.type))
    throw refused(`${name} is not an image that can be read here.`, "Expected PNG, JPEG, WebP or GIF.", "Convert it, or choose another file.");
  if (file.size > BYTES)
    throw refused(
      `${name} has ${(file.size / 1e6).toFixed(0)} MB.`,
      `Expected at most ${BYTES / 1e6} MB.`,
      "Scale it down.",
    );
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap === null)
    throw refused(`${name} is damaged, or no image.`, "Expected PNG, JPEG, WebP or GIF.", "Choose another file.");
  const pixels = bitmap.width * bitmap.height;
  bitmap.close();
  if (pixels > PIXELS)
    throw refused(
      `${name} has ${(pixels / 1e6).toFixed(0)} million pixels.`,
      `Expected at most ${PIXELS / 1e6} million.`,
      "Scale it down.",
    );
}
