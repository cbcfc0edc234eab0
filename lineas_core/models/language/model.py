"""Causal language models: prepare prompts, run them, generate steered text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from lineas_core.errors import ConfigError, PromptError
from lineas_core.maps.steering_map import Steering, SteeringMap
from lineas_core.models.language.batching import embedding_rows
from lineas_core.models.language.chat import Prompt, encode_chat, has_chat
from lineas_core.models.language.checkpoint import load_checkpoint
from lineas_core.models.language.decoding import Batch, decode
from lineas_core.models.language.kernels import lighten
from lineas_core.models.language.packing import TokenRows, enable
from lineas_core.models.language.sampling import GumbelNoise
from lineas_core.models.language.text_grid import TextGrid
from lineas_core.models.language.traits import Traits
from lineas_core.models.shared.batches import cells_of, check_listed, in_rows, rows_of, seeds_for
from lineas_core.models.shared.catalog import CatalogEntry
from lineas_core.models.shared.loading import loading
from lineas_core.models.shared.packages import remedy
from lineas_core.models.shared.sites import match_sites, presets_of
from lineas_core.steering import steer as steering

MAX_NEW_TOKENS = 2048


class LanguageModel:
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
    ) -> LanguageModel:
        """Load from a folder or a hub repository; `load_model` is the public entry point.

        With `split` the layers are spread evenly over all GPUs, the first of which is `device`.

        Raises:
            ModelError: it cannot be found, is not a causal language model, or does not fit.
        """
        with loading(id, device, remedy(entry) if entry else ""):
            module, tokenizer = load_checkpoint(source, id, device, dtype, entry, split=split)
        return cls(id, module, tokenizer, entry)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.module.device
        return device

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
        padded = self._pad([self._encode(p, i) for i, p in enumerate(prompts)], left=False)
        return replace(padded, packs=self._packs)

    def forward(self, inputs: TokenRows) -> None:
        """Run the layers, without the head, for the hooks on them."""
        packing = inputs.packing
        if packing is None:
            # Without a mask: padding comes after the tokens, which never look ahead.
            self.module.base_model(input_ids=inputs.ids, use_cache=False)
            return
        with packing.active():
            self.module.base_model(
                input_ids=inputs.ids.flatten()[packing.places][None],
                position_ids=packing.positions,
                attention_mask=packing.real,
                use_cache=False,
            )

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
        check_listed(prompts)
        seeds = seeds_for(seed, len(prompts))
        if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
            raise ConfigError(f"max_new_tokens is {max_new_tokens}; choose 1 to {MAX_NEW_TOKENS}.")
        given = {"temperature": temperature, "top_k": top_k, "batch_size": batch_size}
        for name, least in (("temperature", 0), ("top_k", 0), ("batch_size", 1)):
            if not given[name] >= least:
                raise ConfigError(f"{name} is {given[name]}; it must be {least} or more.")
        rows = [self._encode(p, i, room=max_new_tokens) for i, p in enumerate(prompts)]
        self._traits.check_generates(self.id)
        texts = [""] * len(rows)
        for part in self._batches(len(rows), batch_size, steer):
            own = [seeds[i] for i in part]
            noise = GumbelNoise(own, top_k, self.device) if temperature > 0 else None
            before = []
            if temperature not in (0, 1):
                before.append(transformers.TemperatureLogitsWarper(float(temperature)))

            def steered(
                chosen: list[int], part: range = part
            ) -> contextlib.AbstractContextManager[None]:
                return steering(self, rows_of(steer, [part[i] for i in chosen], len(rows)))

            def tell(unfinished: list[list[int]], part: range = part) -> None:
                for i, text in zip(part, self._texts(unfinished), strict=True):
                    texts[i] = text
                if on_texts:
                    on_texts(list(texts))

            padded = self._pad([rows[i] for i in part], left=True)
            batch = Batch(
                self.module,
                padded.ids,
                padded.mask.long(),
                steered=steered,
                noise=noise,
                before_noise=before,
                max_new_tokens=max_new_tokens,
                pad=self._pad_id,
            )
            with self._traits.fresh():
                tokens = decode(
                    batch,
                    drops=len(part) > 1 and self._traits.drops_rows,
                    tell=tell if on_texts else None,
                    graphs=self._traits.graphs(padded.ids.shape[1] + max_new_tokens),
                )
            for i, text in zip(part, self._texts(tokens), strict=True):
                texts[i] = text
        return texts

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

    @torch.no_grad()
    def token_losses(
        self, texts: Sequence[str], contexts: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[Float[Tensor, " _"]]:
        """Negative log-likelihood, in nats, of each token of each text.

        Args:
            texts: the texts to score. Without a context, the first token is not scored.
            contexts: the text before each text; not scored.
            batch_size: texts that run at once.

        Returns:
            One float32 vector per text, on the CPU; empty for a text with nothing to score.
        """
        rows, starts = [], []
        for i, text in enumerate(texts):
            if contexts is None:
                before, scored = [], self._encode(text, i)
            else:
                before = self._encode(contexts[i], i)
                scored = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append(before + scored)
            starts.append(max(len(before), 1))
        losses: list[Tensor] = []
        for begin in range(0, len(rows), batch_size):
            part = slice(begin, begin + batch_size)
            batch = self._pad(rows[part], left=False)
            first = min(starts[part]) - 1
            logits = self._logits(batch, first)
            for row, start, scores in zip(rows[part], starts[part], logits, strict=True):
                predicted = scores[start - 1 - first : len(row) - 1 - first].float()
                wanted = torch.tensor(row[start:], device=scores.device, dtype=torch.long)
                losses.append(
                    nn.functional.cross_entropy(predicted, wanted, reduction="none").cpu()
                )
        return losses

    @torch.no_grad()
    def log_odds(
        self, contexts: Sequence[str], yes: str, no: str, batch_size: int = 32
    ) -> list[float]:
        """log p(yes) - log p(no) after each context, at the first token in which they differ.

        Raises:
            ConfigError: one of the two answers begins with the other.
        """
        tokens = [self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (yes, no)]
        pairs = list(zip(*tokens, strict=False))
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if shared is None:
            raise ConfigError(f"{yes!r} and {no!r} begin alike; give two different answers.")
        one, other = pairs[shared]
        rows = [self._encode(c, i) + tokens[0][:shared] for i, c in enumerate(contexts)]
        found: list[float] = []
        for begin in range(0, len(rows), batch_size):
            part = rows[begin : begin + batch_size]
            first = min(map(len, part)) - 1
            logits = self._logits(self._pad(part, left=False), first).float()
            for row, scores in zip(part, logits, strict=True):
                last = scores[len(row) - 1 - first]
                found.append(float(last[one] - last[other]))
        return found

    @torch.no_grad()
    def next_token_log_probs(self, prompts: Sequence[str]) -> Float[Tensor, "tokens vocabulary"]:
        """Next-token log-probabilities after each token of each prompt, float32, on the device.

        The model runs with any maps that are currently on it.

        Raises:
            PromptError: a prompt is empty, or longer than the model reads.
        """
        batch = self._pad([self._encode(p, i) for i, p in enumerate(prompts)], left=False)
        return self._logits(batch, 0)[batch.mask].float().log_softmax(dim=-1)

    def perplexity(self, prompts: Sequence[str]) -> float:
        """Perplexity of `prompts` under the model as currently steered, over all their tokens."""
        return perplexity_of(self.token_losses(prompts))

    def _logits(self, batch: TokenRows, first: int) -> Float[Tensor, "n kept vocabulary"]:
        """Logits of the columns from `first` on, as the head costs as much as several layers."""
        logits: Tensor = self.module(
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            use_cache=False,
            logits_to_keep=batch.ids.shape[1] - first,
        ).logits
        # A model that does not support `logits_to_keep` returns all columns.
        return logits[:, first - batch.ids.shape[1] :]

    def _encode(self, prompt: Prompt, index: int, room: int = 0) -> list[int]:
        ids: list[int] = []
        if not isinstance(prompt, str):
            ids = encode_chat(self.tokenizer, prompt, index)
        elif prompt:
            ids = self.tokenizer(prompt)["input_ids"]
            end = self.tokenizer.eos_token
            # Some tokenizers end each text, and nothing is to be written behind the end.
            if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and not prompt.endswith(end):
                ids = ids[:-1]
        limit = getattr(self.module.config, "max_position_embeddings", None)
        if not ids:
            raise PromptError(f"Prompt {index + 1} is empty; write at least one word.")
        if limit is not None and len(ids) + room > limit:
            raise PromptError(
                f"Prompt {index + 1} has {len(ids)} tokens, and {room} are to follow; {self.id} "
                f"reads {limit}. Shorten it."
            )
        return ids

    def _pad(self, rows: Sequence[Sequence[int]], *, left: bool) -> TokenRows:
        return TokenRows.of(rows, self._pad_id, self.device, left=left)

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

    def _texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts


def perplexity_of(losses: Sequence[Float[Tensor, " _"]]) -> float:
    """exp of the mean negative log-likelihood over all tokens of all texts; NaN without tokens."""
    return float(torch.cat([torch.empty(0), *losses]).mean().exp())
