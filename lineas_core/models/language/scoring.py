"""How likely a language model finds texts: losses, perplexity, odds between two answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
import transformers
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lineas_core.errors import ConfigError
from lineas_core.models.language.chat import Prompt
from lineas_core.models.language.packing import TokenRows
from lineas_core.system.devices import indices_on


@dataclass(frozen=True)
class ContinuedRows:
    """Texts, each after a context, whose likelihood can be trained.

    Attributes:
        module: the transformers model.
        inputs: the tokens of context and text.
        starts: column of each text's first token, >= 1; a row may be scored from an earlier one.
        scored: 1 at the tokens of the texts, and 0 at contexts and padding.
    """

    module: transformers.PreTrainedModel
    inputs: TokenRows
    starts: tuple[int, ...]
    scored: Float[Tensor, "n tokens"]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def mask(self) -> Bool[Tensor, "n tokens"]:
        """True at real tokens."""
        return self.inputs.mask

    @property
    def counts(self) -> Float[Tensor, "n 1"]:
        """Number of tokens of each text, without its context."""
        return self.scored.sum(dim=1, keepdim=True)

    def rows(self, indices: Sequence[int] | Tensor) -> ContinuedRows:
        """The given rows.

        A tensor of indices, on the device, gives rows of one shape whatever it holds, which are
        scored from the first column that any text begins in.
        """
        inputs = self.inputs.rows(indices)
        if isinstance(indices, Tensor):
            starts = (min(self.starts),) * len(indices)
        else:
            starts = tuple(self.starts[i] for i in indices)
            indices = indices_on(self.scored.device, indices)
        scored = self.scored[indices, : inputs.ids.shape[1]]
        return replace(self, inputs=inputs, starts=starts, scored=scored)

    def losses(self) -> Float[Tensor, " n"]:
        """Negative log-likelihood of each text after its context, in nats, summed over its tokens.

        With the maps that are on, and differentiable in them.
        """
        lengths, width = self.inputs.lengths, self.inputs.ids.shape[1]
        device = self.scored.device
        # The host knows where the texts are, so that no device is asked for a shape.
        columns = [range(s, n) for s, n in zip(self.starts, lengths, strict=True)]
        wanted = indices_on(device, [i * width + t for i, ts in enumerate(columns) for t in ts])
        predicted = self._logits(columns).float()
        tokens = self.inputs.ids.flatten()[wanted].to(predicted.device)
        losses = nn.functional.cross_entropy(predicted, tokens, reduction="none").to(device)
        losses = losses * self.scored.flatten()[wanted]
        return torch.stack([part.sum() for part in losses.split([*map(len, columns)])])

    def _logits(self, columns: Sequence[range]) -> Float[Tensor, "scored vocabulary"]:
        """Logits for the tokens in the columns of each row; the head runs for no others."""
        first = min(ts.start for ts in columns) - 1
        packing, longest = self.inputs.packing, max(self.inputs.lengths)
        with self.inputs.passing() as arguments:
            if packing is not None:
                begins = packing.begins
                kept = [begins[i] + t - 1 for i, ts in enumerate(columns) for t in ts]
                places = indices_on(self.scored.device, kept)
                found: Tensor = self.module(**arguments, logits_to_keep=places).logits[0]
                return found
            logits: Tensor = self.module(**arguments, logits_to_keep=longest - first).logits
        # A model that does not support `logits_to_keep` returns all columns.
        logits = logits[:, first - longest :]
        kept = [i * (longest - first) + t - 1 - first for i, ts in enumerate(columns) for t in ts]
        return logits.flatten(0, 1)[indices_on(logits.device, kept)]


class Scores:
    """What `LanguageModel` computes without writing anything, with any maps that are on it."""

    module: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase

    def encode(self, prompt: Prompt, index: int = 0, room: int = 0) -> list[int]:
        """The tokens of a prompt."""
        raise NotImplementedError

    def pad(self, rows: Sequence[Sequence[int]], *, left: bool) -> TokenRows:
        """Rows of tokens on the model's device."""
        raise NotImplementedError

    def packed(self, rows: Sequence[Sequence[int]]) -> TokenRows:
        """Rows of tokens on the model's device, run without padding where its family can."""
        raise NotImplementedError

    def continuations(self, contexts: Sequence[str], texts: Sequence[str]) -> ContinuedRows:
        """The texts, each after the context at its place and a space.

        Raises:
            PromptError: context and text are longer than the model reads.
        """
        rows, starts = [], []
        # Errors name a text by its place among those that differ.
        numbers: dict[str, int] = {}
        for context, text in zip(contexts, texts, strict=True):
            i = numbers.setdefault(text, len(numbers))
            before, row = self.encode(context, i), self.encode(f"{context} {text}", i)
            shared = takewhile(lambda pair: pair[0] == pair[1], zip(before, row, strict=False))
            # The first token of a row is predicted by none.
            starts.append(max(sum(1 for _ in shared), 1))
            rows.append(row)
        inputs = self.packed(rows)
        columns = torch.arange(inputs.ids.shape[1], device=inputs.ids.device)
        begin = torch.tensor(starts, device=inputs.ids.device)[:, None]
        scored = (inputs.mask & (columns >= begin)).float()
        return ContinuedRows(self.module, inputs, tuple(starts), scored)

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
                before, scored = [], self.encode(text, i)
            else:
                before = self.encode(contexts[i], i)
                scored = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append(before + scored)
            starts.append(max(len(before), 1))
        losses: list[Tensor] = []
        for begin in range(0, len(rows), batch_size):
            part = slice(begin, begin + batch_size)
            batch = self.pad(rows[part], left=False)
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
        rows = [self.encode(c, i) + tokens[0][:shared] for i, c in enumerate(contexts)]
        found: list[float] = []
        for begin in range(0, len(rows), batch_size):
            part = rows[begin : begin + batch_size]
            first = min(map(len, part)) - 1
            logits = self._logits(self.pad(part, left=False), first).float()
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
        batch = self.pad([self.encode(p, i) for i, p in enumerate(prompts)], left=False)
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


def perplexity_of(losses: Sequence[Float[Tensor, " _"]]) -> float:
    """exp of the mean negative log-likelihood over all tokens of all texts; NaN without tokens."""
    return float(torch.cat([torch.empty(0), *losses]).mean().exp())
