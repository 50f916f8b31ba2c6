"""Picks the next token with llama.cpp's own chain of samplers. Knows options and logits; knows no text.

The order is the core's (logit bias, penalties, top_k, typical_p, top_p, min_p, temperature), with DRY behind the
penalties, XTC before the temperature, and a grammar before everything.
"""

from __future__ import annotations

import ctypes
import json
import secrets
import weakref
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge import BackendError, InvalidRequest, ModelLoadError, Sampling
from chatbridge_llama_cpp.native import lib, log
from chatbridge_llama_cpp.options import LOOKUP, LlamaOptions

_NGRAM = 3
"""Tokens that have to come again for a guess."""

_RANDOM = 0xFFFFFFFF  # what llama.cpp takes for "any seed"


class Samplers:
    """Makes the chain of each request, by the request's options and the model's own.

    `context_length`: tokens that a penalty over everything looks at.
    """

    def __init__(self, options: LlamaOptions, vocabulary: Any, vocab_size: int, context_length: int) -> None:
        self._options = options
        self._vocabulary = vocabulary
        self._size = vocab_size
        self._context_length = context_length
        self._grammar = gbnf(options)
        if self._grammar is not None:
            lib.llama_sampler_free(self._grammar_sampler())

    def new(self, sampling: Sampling, prompt: Sequence[int], generated: int) -> Chain:
        """The chain for one request; see `LocalModel.new_sampler`."""
        options = self._options
        chain = Chain(sampling, Guesses(prompt, options.draft_tokens) if options.draft == LOOKUP else None)
        answer = list(prompt[len(prompt) - generated :]) if generated else []
        if self._grammar is not None:
            chain.add(self._grammar_sampler(), answer)
        if sampling.logit_bias:
            chain.add_bias(sampling.logit_bias, self._size)
        if sampling.repeat_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty:
            window = sampling.penalty_window or self._context_length
            penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
            chain.add(lib.llama_sampler_init_penalties(self._size, window, *penalties), prompt[-window:])
        if options.dry_multiplier:
            window = options.dry_window or self._context_length
            chain.add(self._dry(window), prompt[-window:])
        if options.mirostat is not None:
            self._add_mirostat(chain, sampling)
        elif sampling.temperature == 0:
            chain.add(lib.llama_sampler_init_greedy())
        else:
            self._add_narrowing(chain, sampling)
            chain.add(lib.llama_sampler_init_dist(chain.seed))
            chain.skip(generated)
        return chain

    def _add_narrowing(self, chain: Chain, sampling: Sampling) -> None:
        if sampling.top_k:
            chain.add(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.typical_p < 1:
            chain.add(lib.llama_sampler_init_typical(sampling.typical_p, 1))
        if sampling.top_p < 1:
            chain.add(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            chain.add(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        if self._options.xtc_probability:
            xtc = (self._options.xtc_probability, self._options.xtc_threshold)
            chain.add(lib.llama_sampler_init_xtc(*xtc, 1, chain.seed))
        chain.add(lib.llama_sampler_init_temp(sampling.temperature))

    def _add_mirostat(self, chain: Chain, sampling: Sampling) -> None:
        if sampling.temperature == 0:
            raise InvalidRequest("temperature 0 takes the likeliest token, and mirostat draws: leave one of them out")
        tau, eta = self._options.mirostat_tau or 5.0, self._options.mirostat_eta or 0.1
        chain.add(lib.llama_sampler_init_temp(sampling.temperature))
        if self._options.mirostat == 1:
            chain.add(lib.llama_sampler_init_mirostat(self._size, chain.seed, tau, eta, 100))
        else:
            chain.add(lib.llama_sampler_init_mirostat_v2(chain.seed, tau, eta))

    def _dry(self, window: int) -> Any:
        options = self._options
        breakers = [text.encode() for text in options.dry_breakers]
        array = (ctypes.c_char_p * len(breakers))(*breakers)
        settings = (options.dry_multiplier, options.dry_base, options.dry_allowed_length, window)
        return lib.llama_sampler_init_dry(self._vocabulary, *settings, array, len(breakers))

    def _grammar_sampler(self) -> Any:
        assert self._grammar is not None
        with log().capture() as output:
            sampler = lib.llama_sampler_init_grammar(self._vocabulary, self._grammar.encode(), b"root")
        if not sampler:
            why = "; ".join(line.strip() for line in output.problems if line.strip())
            raise ModelLoadError(f"the grammar can't be read: {why or 'it has no rule called root'}")
        return sampler


class Chain:
    """The samplers of one request, in order; freed with the last reference."""

    def __init__(self, sampling: Sampling, guesses: Guesses | None = None) -> None:
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.seed = int.from_bytes(blake2b(seed.to_bytes(8, "little"), digest_size=4).digest(), "little") % _RANDOM
        self._guesses = guesses
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._last: Any = None
        # Only the likeliest token is wanted, and nothing but a bias changes the logits: no need to go through the
        # chain, which makes a record of every id first.
        self._plain = sampling.temperature == 0
        self._bias: tuple[NDArray[np.intp], NDArray[np.float32]] | None = None
        weakref.finalize(self, lib.llama_sampler_free, self._chain).atexit = False

    def add(self, sampler: Any, seen: Sequence[int] = ()) -> None:
        """Append a sampler that has seen these tokens before; the chain owns it from now on."""
        for token in seen:
            lib.llama_sampler_accept(sampler, token)
        lib.llama_sampler_chain_add(self._chain, sampler)
        self._plain = self._plain and self._last is None
        self._last = sampler

    def add_bias(self, bias: Mapping[int, float], vocab_size: int) -> None:
        """Append a sampler that adds so much to the logits of these ids."""
        biases = [lib.llama_logit_bias(token, added) for token, added in bias.items()]
        array = (lib.llama_logit_bias * len(biases))(*biases)
        lib.llama_sampler_chain_add(self._chain, lib.llama_sampler_init_logit_bias(vocab_size, len(biases), array))
        self._bias = np.array([*bias], np.intp), np.array([*bias.values()], np.float32)

    def skip(self, draws: int) -> None:
        """Let the last sampler draw so often as if for tokens sampled before."""
        one = lib.llama_token_data(0, 0.0, 0.0)
        for _ in range(draws):
            array = lib.llama_token_data_array(ctypes.pointer(one), 1, -1, False)
            lib.llama_sampler_apply(self._last, ctypes.byref(array))

    def sample(self, context: Any, output: int, logits: NDArray[np.float32]) -> int:
        """The next token after the batch's token at `output`, where `logits` came out.

        Raises BackendError for logits that are no numbers.
        """
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            raise BackendError(f"the model's logits are no numbers to choose from (the greatest is {logits[best]})")
        if not self._plain:
            token = int(lib.llama_sampler_sample(self._chain, context, output))
        elif self._bias is None:
            token = best
        else:
            ids, added = self._bias
            biased = logits.copy()  # llama.cpp's own, and another guess may look at them
            biased[ids] += added
            token = int(biased.argmax())
        if self._guesses is not None:
            self._guesses.add(token)
        return token

    def guess(self, max_tokens: int) -> Sequence[int]:
        """What may come after the tokens so far; at most `max_tokens` ids, which may be none."""
        return () if self._guesses is None else self._guesses.next(max_tokens)


class Guesses:
    """Guesses what comes next from what came before: prompt lookup (Saxena 2023, apoorvumang/prompt-lookup-decoding).

    `max_tokens`: of one guess. Every guess is checked by the model, so it changes no answer.
    """

    def __init__(self, tokens: Sequence[int], max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        if len(self._tokens) >= _NGRAM:
            self._after[tuple(self._tokens[-_NGRAM:])] = len(self._tokens)
        self._tokens.append(token)

    def next(self, max_tokens: int) -> Sequence[int]:
        """The ids that followed when the last ones came before."""
        at = self._after.get(tuple(self._tokens[-_NGRAM:]))
        return () if at is None else self._tokens[at : at + min(max_tokens, self._max_tokens)]


def gbnf(options: LlamaOptions) -> str | None:
    """The grammar of every answer in llama.cpp's notation, or None.

    Raises ModelLoadError for a schema that can't be made one.
    """
    if options.json_schema is None:
        return options.grammar
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        return str(json_schema_to_gbnf(json.dumps(options.json_schema)))
    except Exception as error:  # the converter asserts, indexes and raises as it comes
        raise ModelLoadError(
            f"json_schema: no grammar can be made of it ({type(error).__name__}: {error}); take a simpler one"
        ) from None
