/** The upload of an image that is explained. */
import { send } from "../../api/client";
import type { ApiError } from "../../api/errors";
import { asError } from "../../api/resource.svelte";
import type { ModelInfo, UploadedImage } from "../../api/types";
import { checkImage } from "../../state/image-file";
import { route } from "../../state/route.svelte";
import { uploaded } from "./address";

class Upload {
  error = $state.raw<ApiError | null>(null);
  busy = $state(false);

  /** Send an image and explain it. */
  async image(model: ModelInfo, file: Blob): Promise<void> {
    this.error = null;
    this.busy = true;
    try {
      await checkImage(file);
      const path = `models/${model.number}/explanations/image`;
      const response = await send<UploadedImage>("POST", path, file);
      route.go(uploaded(response.image));
    } catch (fault) {
      this.error = asError(fault);
    } finally {
      this.busy = false;
    }
  }
}

export const upload = new Upload();
