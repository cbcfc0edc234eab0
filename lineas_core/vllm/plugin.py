"""The plugin: vLLM calls `register` in each of its processes.

Keys and values of a request depend on what steers it, so vLLM must not share them between requests.
Maps act by hooks, which graphs leave out. `check` refuses what it does not fit.
"""

from __future__ import annotations

import functools
from typing import Any

from lineas_core.errors import ConfigError
from lineas_core.maps.steering_map import SteeringMap
from lineas_core.vllm.asked import MAPS, asked_of, files_of
from lineas_core.vllm.token_maps import TokenMaps


@functools.cache
def register() -> None:
    """Have vLLM check what is asked for, and its workers steer. Entry point of the plugin."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    create, validate = EngineArgs.create_engine_config, InputProcessor._validate_params
    init_device = WorkerWrapperBase.init_device

    @functools.wraps(create)
    def created(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = create(self, *args, **kwargs)
        check(config)
        return config

    @functools.wraps(validate)
    def validated(self: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        # Here a request is refused; in a worker it would end vLLM.
        files = files_of(self.vllm_config.additional_config)
        asked_of(getattr(params, "extra_args", None), files)
        return validate(self, params, *args, **kwargs)

    @functools.wraps(init_device)
    def initialised(self: Any) -> None:
        init_device(self)
        files = files_of(self.vllm_config.additional_config)
        if files:
            maps = {name: SteeringMap.load(file) for name, file in files.items()}
            SteeredRunner(self.worker.model_runner, maps).attach()

    EngineArgs.create_engine_config = created
    InputProcessor._validate_params = validated
    WorkerWrapperBase.init_device = initialised


def check(config: Any) -> None:
    """Refuse settings of vLLM under which requests would not be steered as they ask.

    Args:
        config: a `VllmConfig`.

    Raises:
        ConfigError: it has maps and such a setting; the message names it.
    """
    if not files_of(config.additional_config):
        return
    parallel = config.parallel_config
    wrong = {
        "enforce_eager is False; start vLLM with --enforce-eager": (
            not config.model_config.enforce_eager
        ),
        "enable_prefix_caching is True; start vLLM with --no-enable-prefix-caching": (
            config.cache_config.enable_prefix_caching
        ),
        "a KV connector is set; start vLLM without --kv-transfer-config": (
            config.kv_transfer_config is not None
        ),
        "pipeline_parallel_size is above 1": parallel.pipeline_parallel_size > 1,
        "prefill_context_parallel_size is above 1": parallel.prefill_context_parallel_size > 1,
        "a batch is split; start vLLM without --enable-dbo and --ubatch-size": (
            parallel.use_ubatching
        ),
        "vLLM would use its model runner V2; set VLLM_USE_V2_MODEL_RUNNER=0": (
            config.use_v2_model_runner
        ),
    }
    if found := [reason for reason, holds in wrong.items() if holds]:
        raise ConfigError(f"additional_config has maps under {MAPS!r}, and {'; '.join(found)}.")


class SteeredRunner:
    """Steers what vLLM's model runner (`GPUModelRunner`, or the CPU's) runs.

    Args:
        runner: the runner, before it loads its model.
        maps: by the names that requests use.
    """

    def __init__(self, runner: Any, maps: dict[str, SteeringMap]) -> None:
        self._runner, self._maps = runner, maps
        self._load, self._prepare = runner.load_model, runner._prepare_inputs
        self._run = runner._model_forward
        self._counts: list[int] = []

    def attach(self) -> None:
        """Put its own methods in place of the runner's."""
        runner = self._runner
        runner.load_model, runner._prepare_inputs = self.load_model, self.prepare_inputs
        runner._model_forward = self.model_forward

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model, and attach the maps.

        Raises:
            SiteError: a map does not fit it.
        """
        self._load(*args, **kwargs)
        self._tokens = TokenMaps(self._runner.model, self._maps)

    def prepare_inputs(self, scheduled: Any, counts: Any) -> Any:
        """Prepare a batch; `counts` are the tokens of its requests, in their order."""
        self._counts = [int(count) for count in counts]
        return self._prepare(scheduled, counts)

    def model_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run a batch, each request as it asks."""
        params = (
            self._runner.requests[request].sampling_params
            for request in self._runner.input_batch.req_ids
        )
        asked = [asked_of(each.extra_args if each else None, self._maps) for each in params]
        with self._tokens.steering(asked, self._counts):
            return self._run(*args, **kwargs)
