"""Runs in vLLM's own environment, where neither pytest nor this project's dependencies are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    from vllm import LLM, EngineArgs, SamplingParams

    asked = json.load(sys.stdin)
    settings: dict[str, Any] = {
        "model": asked["model"],
        "additional_config": {"lineas": asked["maps"]},
        "dtype": "float32",
        "max_model_len": 64,
        "max_logprobs": -1,
        "kv_cache_memory_bytes": 2**26,
        "enforce_eager": True,
        "enable_prefix_caching": False,
    }
    found: dict[str, Any] = {"rows": [], "settings": []}
    for wrong in ({"enforce_eager": False}, {"enable_prefix_caching": True}):
        try:
            EngineArgs(**{**settings, **wrong}).create_engine_config()
        except ValueError as error:
            found["settings"].append(str(error))
    llm = LLM(**settings)
    params = [
        SamplingParams(temperature=0, max_tokens=6, logprobs=-1, extra_args={"steering": steering})
        for steering in asked["steering"]
    ]
    prompts: Any = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
    for output in llm.generate(prompts, params):
        [row] = output.outputs
        odds = [{token: each.logprob for token, each in step.items()} for step in row.logprobs]
        found["rows"].append({"tokens": list(row.token_ids), "odds": odds})
    try:
        llm.generate(prompts[:1], SamplingParams(extra_args={"steering": ["neon@1"]}))
    except ValueError as error:
        found["refused"] = str(error)
    # vLLM goes on after a request that it refused.
    [after] = llm.generate(prompts[:1], params[:1])
    found["after"] = list(after.outputs[0].token_ids)
    Path(asked["to"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
