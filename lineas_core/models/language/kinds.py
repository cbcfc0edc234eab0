"""Which checkpoints continue a text: decoders, not encoders or sequence-to-sequence models."""

from __future__ import annotations

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from lineas_core.errors import ModelError


def check_continues_text(id: str, config: transformers.PretrainedConfig) -> None:
    """Refuse a checkpoint that does not continue texts.

    transformers loads the decoder of some of these with weights drawn at random, or lets an encoder
    "generate", so it has to be asked for by kind.

    Args:
        id: the model's name in the error.
        config: its config.

    Raises:
        ModelError: it is an encoder, a sequence-to-sequence model or a classifier.
    """
    written = list(getattr(config, "architectures", None) or [])
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
    elif config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kind = "no model that continues texts"
    if kind:
        raise ModelError(
            f"{id} ({config.model_type}) is {kind}. Choose a causal language model, such as "
            "smollm2 or one whose page says text generation."
        )
