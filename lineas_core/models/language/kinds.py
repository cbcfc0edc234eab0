"""Which models continue a text: decoders, not encoders or sequence-to-sequence models."""

from __future__ import annotations

import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from lineas_core.errors import ModelError
from lineas_core.models.language.batching import looks_ahead

OTHERS = "Choose a causal language model, such as smollm2 or one whose page says text generation."


def check_continues_text(
    id: str,
    config: transformers.PretrainedConfig,
    module: transformers.PreTrainedModel | None = None,
) -> None:
    """Refuse a checkpoint, or a model in memory, that does not continue texts.

    transformers loads the decoder of some of these with weights drawn at random, or lets an encoder
    "generate", so it has to be asked for by kind.

    Args:
        id: the model's name in the error.
        config: its config.
        module: the model if it is in memory; its class may not be the one that the config names.

    Raises:
        ModelError: it is an encoder, a sequence-to-sequence model, a classifier or a drafter.
    """
    written = list(getattr(config, "architectures", None) or [])
    if module is not None:
        written = [type(module).__name__]
    kind = ""
    if getattr(config, "is_encoder_decoder", False):
        kind = "a sequence-to-sequence model"
    elif any(name.endswith("Classification") for name in written):
        kind = "a classifier"
    elif (
        config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "causal", False)
    ):
        kind = "an encoder, which fills in masked words"
    elif config.model_type.endswith("_assistant"):
        kind = "a drafter, which reads the activations of another model"
    elif config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kind = "no model that continues texts"
    elif module is not None and not module.can_generate():
        kind = f"a {written[0]}, without the head that writes"
    if kind:
        raise ModelError(f"{id} ({config.model_type}) is {kind}. {OTHERS}")


def check_looks_back(id: str, module: transformers.PreTrainedModel) -> None:
    """Refuse a model whose tokens attend to those after them; no config tells all of these.

    Batches in training are padded on their right, and without a mask.

    Args:
        id: the model's name in the error.
        module: the model.

    Raises:
        ModelError: it looks ahead, or cannot read a few tokens.
    """
    kind = module.config.model_type
    try:
        ahead = looks_ahead(module)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Models of transformers that lack an input raise whatever they come upon.
        raise ModelError(
            f"{id} ({kind}) cannot read text on its own ({type(error).__name__}: {error}). {OTHERS}"
        ) from error
    if ahead:
        raise ModelError(
            f"{id} ({kind}) is an encoder: its tokens attend to those after them. {OTHERS}"
        )
