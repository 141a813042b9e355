"""Shape of a model on the hub: its config and the headers of its safetensors files, read by byte ranges.

Nothing else is downloaded: a few kilobytes instead of gigabytes of weights.
"""

import json
from pathlib import Path
from typing import Any

from studio.errors import BadInput, Unavailable
from studio.hub.compat import connection_errors

_PATIENCE = 10.0


def read(hub_id: str) -> tuple[dict[str, Any], list[tuple[str, list[int], str]]]:
    """Read the model's config, and name, shape and type of each tensor. Raises BadInput or Unavailable."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        NotASafetensorsRepoError,
        RepositoryNotFoundError,
    )

    broken = connection_errors(ValueError)
    try:
        metadata = HfApi().get_safetensors_metadata(hub_id)
        config = json.loads(Path(hf_hub_download(hub_id, "config.json", etag_timeout=_PATIENCE)).read_bytes())
    except GatedRepoError:
        raise BadInput(f"{hub_id} is gated: accept its terms on the hub and set HF_TOKEN, then try again.") from None
    except RepositoryNotFoundError:
        raise BadInput(f"The hub has no model {hub_id} (or it is private: set HF_TOKEN).") from None
    except NotASafetensorsRepoError:
        raise BadInput(f"{hub_id} has no safetensors files, so its sizes cannot be read without its weights.") from None
    except broken as error:
        raise Unavailable(f"The Hugging Face hub cannot be reached ({type(error).__name__}).") from None
    tensors = [
        (name, list(tensor.shape), str(tensor.dtype))
        for file in metadata.files_metadata.values()
        for name, tensor in file.tensors.items()
    ]
    return config, tensors
