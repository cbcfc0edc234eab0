"""Causal language models: prepare prompts, run them, generate steered text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from lineas_core.errors import PromptError
from lineas_core.maps.steering_map import Steering, SteeringMap
from lineas_core.models.language.batching import embedding_rows
from lineas_core.models.language.chat import Prompt, encode_chat, has_chat
from lineas_core.models.language.checkpoint import load_checkpoint
from lineas_core.models.language.decoding import Batch, Completion, Written, decode
from lineas_core.models.language.kernels import lighten
from lineas_core.models.language.packing import TokenRows, enable
from lineas_core.models.language.sampling import Sampling
from lineas_core.models.language.scoring import Scores
from lineas_core.models.language.traits import Traits
from lineas_core.models.shared.batches import (
    TextGrid,
    cells_of,
    check_listed,
    in_rows,
    rows_of,
    seeds_for,
)
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.loading import loading
from lineas_core.models.shared.packages import remedy
from lineas_core.models.shared.sites import match_sites, presets_of
from lineas_core.steering import steer as steering


class LanguageModel(Scores):
    """A frozen causal language model with named sites.

    Attributes:
        id: the name it was loaded by.
        module: the transformers model.
        tokenizer: its tokenizer.
        entry: its entry in the catalogue, if it has one.
    """

    modality = "text"

    def __init__(
        self,
        id: str,
        module: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        entry: CatalogEntry | None = None,
    ) -> None:
        self.id = id
        self.module: transformers.PreTrainedModel = module.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.entry = entry
        self._packs = enable(module)
        self._traits = Traits(module, self._pad_id)
        lighten(module)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        id: str,
        device: torch.device,
        dtype: torch.dtype | str,
        entry: CatalogEntry | None = None,
        split: bool = False,
        rounded: str = "",
    ) -> LanguageModel:
        """Load from a folder or a hub repository; `load_model` is the public entry point.

        With `split` the layers are spread evenly over all GPUs, the first of which is `device`. The
        weights of linear layers are `rounded` to int8 or int4, if one is named.

        Raises:
            ConfigError: what rounds them is not installed, or not for this device.
            ModelError: it cannot be found, is not a causal language model, or does not fit.
        """
        with loading(id, device, remedy(entry) if entry else ""):
            module, tokenizer = load_checkpoint(
                source, id, device, dtype, entry, split=split, rounded=rounded
            )
        return cls(id, module, tokenizer, entry)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.module.device
        return device

    def to(self, device: torch.device) -> None:
        """Move it."""
        self.module.to(device)

    @property
    def chats(self) -> bool:
        """Whether `generate` takes conversations: the model has a chat template."""
        return has_chat(self.tokenizer)

    @property
    def default_sites(self) -> str:
        """The catalogue's choice of sites; else the paper's preset, or norms found by structure."""
        return self.entry.sites if self.entry else self._traits.default_sites

    @property
    def train_defaults(self) -> Mapping[str, Any]:
        """The catalogue's training settings that differ from the paper's."""
        return self.entry.train if self.entry else {}

    def sites(self, pattern: str) -> list[str]:
        """Module names that match a preset or regular expression (`models/shared/sites.py`).

        Raises:
            SiteError: nothing matches; the message lists the nearest names.
        """
        kind = self.module.config.model_type
        names = [name for name, _ in self.module.named_modules()]
        if pattern in presets_of(kind):
            # A preset leaves out towers that text does not reach.
            names = [name for name in names if name in self._traits.reached]
        return match_sites(names, pattern, kind)

    def prepare(self, prompts: Sequence[Any]) -> TokenRows:
        """Tokenize prompts into rows on the model's device.

        Raises:
            PromptError: a prompt is empty, longer than the model reads, or no text.
        """
        check_listed(prompts, texts_only=True)
        return self.packed([self.encode(p, i) for i, p in enumerate(prompts)])

    def forward(self, inputs: TokenRows) -> None:
        """Run the layers, without the head, for the hooks on them."""
        with inputs.passing() as arguments:
            self.module.base_model(**arguments)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        steer: Steering = (),
        *,
        seed: int | Sequence[int] = 0,
        max_new_tokens: int = 80,
        temperature: float = 1.0,
        top_k: int = 50,
        batch_size: int = 64,
        on_texts: Callable[[list[str]], object] | None = None,
    ) -> list[str]:
        """Sample one completion per prompt, steered by `steer`.

        The noise of a sample depends only on its seed, so two completions with the same prompt and
        seed differ only by their strength.

        Args:
            prompts: at least one. A text is completed; a conversation, a list of messages
                {"role": ..., "content": ...}, is answered through the model's chat template.
            steer: (map, strength) pairs; a strength may be a tensor of one value per prompt.
            seed: one for all prompts, or one for each.
            max_new_tokens: 1 to 2048.
            temperature: 0 for greedy decoding.
            top_k: sample among the k likeliest tokens; 0 for all of them.
            batch_size: prompts that run at once.
            on_texts: called every few tokens with all completions so far; an exception from it
                ends the run.

        Returns:
            The completions, without the prompts.

        Raises:
            ConfigError: a setting is out of range.
            ModelError: transformers cannot generate with the model.
            PromptError: a prompt is empty or too long, or is a conversation and the model has no
                chat template.
            SiteError: a map does not fit this model.
        """
        sampling = Sampling(max_new_tokens, temperature, top_k, batch_size)

        def told(found: list[Completion]) -> Collection[int]:
            if on_texts:
                on_texts([each.text for each in found])
            return ()

        found = self.complete(
            prompts, steer, sampling, seed=seed, on_look=told if on_texts else None
        )
        return [each.text for each in found]

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[Prompt],
        steer: Steering = (),
        sampling: Sampling | None = None,
        *,
        seed: int | Sequence[int] = 0,
        on_look: Callable[[list[Completion]], Collection[int]] | None = None,
    ) -> list[Completion]:
        """`generate`, with the tokens of each completion, and whether the model ended it.

        Args:
            prompts, steer, seed: as for `generate`.
            sampling: its other settings.
            on_look: called every few tokens with all completions so far; those whose places it
                returns end there. An exception from it ends the run.

        Raises:
            as for `generate`.
        """
        sampling = sampling or Sampling()
        check_listed(prompts)
        seeds = seeds_for(seed, len(prompts))
        rows = [self.encode(p, i, room=sampling.max_new_tokens) for i, p in enumerate(prompts)]
        self._traits.check_generates(self.id)
        found = [Completion("", [], False)] * len(rows)
        before: list[Any] = []
        if sampling.temperature not in (0, 1):
            before.append(transformers.TemperatureLogitsWarper(float(sampling.temperature)))
        for part in self._batches(len(rows), sampling.batch_size, steer):

            def steered(
                chosen: list[int], part: range = part
            ) -> contextlib.AbstractContextManager[None]:
                return steering(self, rows_of(steer, [part[i] for i in chosen], len(rows)))

            def tell(written: list[Written], part: range = part) -> Collection[int]:
                found[part.start : part.stop] = self._completions(written)
                ends = on_look(list(found)) if on_look else ()
                return [i - part.start for i in ends if i in part]

            padded = self.pad([rows[i] for i in part], left=True)
            batch = Batch(
                self.module,
                padded.ids,
                padded.mask.long(),
                steered=steered,
                noise=sampling.noise([seeds[i] for i in part], self.device),
                before_noise=before,
                max_new_tokens=sampling.max_new_tokens,
                pad=self._pad_id,
            )
            with self._traits.fresh():
                written = decode(
                    batch,
                    drops=len(part) > 1 and self._traits.drops_rows,
                    tell=tell if on_look else None,
                    graphs=self._traits.graphs(padded.ids.shape[1] + sampling.max_new_tokens),
                )
            found[part.start : part.stop] = self._completions(written)
        return found

    def sweep(
        self,
        prompts: Sequence[str],
        maps: Sequence[tuple[SteeringMap, float | None]],
        strengths: Sequence[float],
        *,
        seed: int | Sequence[int] = 0,
        **settings: Any,
    ) -> TextGrid:
        """Complete every prompt at every strength, in one batch.

        Args:
            prompts: the rows of the grid.
            maps: (map, strength) pairs; a strength of None is swept.
            strengths: the columns of the grid.
            seed: one for all prompts, or one for each; the same along a row.
            settings: as for `generate`.
        """
        check_listed(prompts)
        cells = cells_of(prompts, maps, strengths, seed)
        texts = self.generate(cells.prompts, cells.steer, seed=cells.seeds, **settings)
        rows = in_rows(texts, len(strengths))
        return TextGrid(list(prompts), [float(s) for s in strengths], rows)

    @property
    def max_length(self) -> int | None:
        """Number of tokens that the model reads, a prompt and what follows it; None if unknown."""
        return getattr(self.module.config, "max_position_embeddings", None)

    def encode(self, prompt: Prompt, index: int = 0, room: int = 0) -> list[int]:
        """The tokens of a prompt that `room` tokens are to follow; `index` is for errors.

        Raises:
            PromptError: the prompt is empty, too long, or does not fit the chat template.
        """
        ids: list[int] = []
        if not isinstance(prompt, str):
            ids = encode_chat(self.tokenizer, prompt, index)
        elif prompt:
            ids = self.tokenizer(prompt)["input_ids"]
            end = self.tokenizer.eos_token
            # Some tokenizers end each text, and nothing is to be written behind the end.
            if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and not prompt.endswith(end):
                ids = ids[:-1]
        limit = self.max_length
        if not ids:
            raise PromptError(f"Prompt {index + 1} is empty; write at least one word.")
        if limit is not None and len(ids) + room > limit:
            raise PromptError(
                f"Prompt {index + 1} has {len(ids)} tokens, and {room} are to follow; {self.id} "
                f"reads {limit}. Shorten it."
            )
        return ids

    def pad(self, rows: Sequence[Sequence[int]], *, left: bool) -> TokenRows:
        """Rows of tokens on the model's device, padded before or behind their tokens."""
        return TokenRows.of(rows, self._pad_id, self.device, left=left)

    def packed(self, rows: Sequence[Sequence[int]]) -> TokenRows:
        """Rows of tokens on the model's device, run without padding where its family can."""
        return replace(self.pad(rows, left=False), packs=self._packs)

    def _batches(self, count: int, size: int, steer: Steering) -> list[range]:
        """The places of the prompts that run together; each alone where batches are not sound."""
        varied = {site for m, s in steer if isinstance(s, Tensor) for site in m.sites}
        # A strength per row cannot act on the tokens of all rows in one dimension.
        if count > 1 and (not self._traits.batches_soundly or self._traits.flat & varied):
            size = 1
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    @property
    def _pad_id(self) -> int:
        # Some tokenizers have a padding token that the model has no embedding for. It is masked.
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and pad < embedding_rows(self.module) else 0

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of a completion's tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _completions(self, written: Sequence[Written]) -> list[Completion]:
        return [Completion(self.text_of(row.tokens), *row) for row in written]
